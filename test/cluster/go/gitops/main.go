// Says what GitOps tools make of Kubernetes objects: Argo CD by a health script, Flux by expressions, and whatever
// follows kstatus (Helm, Flux without expressions, kubectl plugins). Also whether manifests are what Flux's API takes. Reads
// one request from stdin and answers on stdout.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	helm "github.com/fluxcd/helm-controller/api/v2"
	kustomization "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	source "github.com/fluxcd/source-controller/api/v1"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type request struct {
	// Lua is a health script of Argo CD.
	Lua string `json:"lua"`
	// Flux is an entry of spec.healthCheckExprs of a Flux Kustomization.
	Flux kustomize.HealthCheckExpressions `json:"flux"`
	// Objects are what to judge.
	Objects []json.RawMessage `json:"objects"`
	// Manifests are objects of Flux's own API.
	Manifests []json.RawMessage `json:"manifests"`
}

type verdict struct {
	Status  string `json:"status,omitempty"`
	Message string `json:"message,omitempty"`
	Error   string `json:"error,omitempty"`
}

type answer struct {
	Verdicts []verdicts `json:"verdicts"`
	// Faults has what is wrong with each manifest; empty if nothing is.
	Faults []string `json:"faults"`
}

type verdicts struct {
	ArgoCD  verdict `json:"argocd"`
	Flux    verdict `json:"flux"`
	Kstatus verdict `json:"kstatus"`
}

func main() {
	log.SetFlags(0)
	var asked request
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		log.Fatalf("the request on stdin is no JSON: %v", err)
	}
	flux, err := cel.NewStatusEvaluator(&asked.Flux)
	if err != nil {
		log.Fatal(err)
	}
	answer := answer{Verdicts: []verdicts{}, Faults: []string{}}
	for _, raw := range asked.Objects {
		// Numbers become int64 where they are whole, as in the controllers' caches.
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(raw); err != nil {
			log.Fatalf("%s: %v", raw, err)
		}
		answer.Verdicts = append(answer.Verdicts, verdicts{
			ArgoCD:  byScript(asked.Lua, object.Object),
			Flux:    byResult(flux.Evaluate(context.Background(), object)),
			Kstatus: byResult(status.Compute(object)),
		})
	}
	for _, raw := range asked.Manifests {
		answer.Faults = append(answer.Faults, fault(raw))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		log.Fatal(err)
	}
}

// fault decodes a manifest into the type that its kind has in Flux's API, and takes a field that is not there for a fault.
func fault(raw []byte) string {
	var kind struct{ APIVersion, Kind string }
	if err := json.Unmarshal(raw, &kind); err != nil {
		return err.Error()
	}
	types := map[string]any{
		kustomization.GroupVersion.String() + "/Kustomization": &kustomization.Kustomization{},
		helm.GroupVersion.String() + "/HelmRelease":            &helm.HelmRelease{},
		source.GroupVersion.String() + "/OCIRepository":        &source.OCIRepository{},
	}
	name := kind.APIVersion + "/" + kind.Kind
	into, known := types[name]
	if !known {
		return name + " is no kind of Flux"
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return name + ": " + err.Error()
	}
	return ""
}

func byResult(result *status.Result, err error) verdict {
	if err != nil {
		return verdict{Error: err.Error()}
	}
	return verdict{Status: result.Status.String(), Message: result.Message}
}

// byScript runs a health script with no more than Argo CD gives it: the libraries base, package and table, one second,
// and the object as the global obj.
func byScript(script string, object map[string]any) verdict {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage,
		lua.BaseLibName: lua.OpenBase,
		lua.TabLibName:  lua.OpenTable,
	} {
		state.Push(state.NewFunction(open))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	within, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(within)
	state.SetGlobal("obj", toLua(state, object))
	if err := state.DoString(script); err != nil {
		return verdict{Error: err.Error()}
	}
	health, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return verdict{Error: fmt.Sprintf("the script returned a %s and no table", state.Get(-1).Type())}
	}
	found, isText := health.RawGetString("status").(lua.LString)
	message, hasMessage := health.RawGetString("message").(lua.LString)
	if !isText || !hasMessage {
		return verdict{Error: "the script returned a status or message that is no string"}
	}
	switch found {
	case "Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown":
		return verdict{Status: string(found), Message: string(message)}
	default:
		return verdict{Error: fmt.Sprintf("the script returned the status %q, which Argo CD does not know", found)}
	}
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case string:
		return lua.LString(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(toLua(state, item))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}
