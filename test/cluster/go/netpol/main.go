// Judges NetworkPolicies, as an implementation that is none of ours reads them.
//
// stdin: {"policies": [NetworkPolicy…], "traffic": [{"from": peer, "to": peer, "port", "portName", "protocol"}…]}, where a
// peer is a Pod (namespace, namespaceLabels, labels, ip) or, without a namespace, an address outside of the cluster.
// stdout: for each traffic whether the policies of its receiver let it in, and those of its sender let it out.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

type peer struct {
	Namespace       string            `json:"namespace"`
	NamespaceLabels map[string]string `json:"namespaceLabels"`
	Labels          map[string]string `json:"labels"`
	IP              string            `json:"ip"`
}

type traffic struct {
	From     peer            `json:"from"`
	To       peer            `json:"to"`
	Port     int             `json:"port"`
	PortName string          `json:"portName"`
	Protocol corev1.Protocol `json:"protocol"`
}

type question struct {
	Policies []*networkingv1.NetworkPolicy `json:"policies"`
	Traffic  []traffic                     `json:"traffic"`
}

type verdict struct {
	Ingress bool `json:"ingress"`
	Egress  bool `json:"egress"`
}

func main() {
	if err := judge(); err != nil {
		fmt.Fprintln(os.Stderr, "netpol:", err)
		os.Exit(1)
	}
}

func judge() error {
	var asked question
	decoder := json.NewDecoder(os.Stdin)
	// A field that nobody knows restricts nothing: it would be a policy that says less than it seems to.
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	policy := matcher.BuildNetworkPolicies(false, asked.Policies)
	verdicts := make([]verdict, len(asked.Traffic))
	for i, t := range asked.Traffic {
		allowed := policy.IsTrafficAllowed(&matcher.Traffic{
			Source:           t.From.matched(),
			Destination:      t.To.matched(),
			ResolvedPort:     t.Port,
			ResolvedPortName: t.PortName,
			Protocol:         t.Protocol,
		})
		verdicts[i] = verdict{Ingress: allowed.Ingress.IsAllowed(), Egress: allowed.Egress.IsAllowed()}
	}
	return json.NewEncoder(os.Stdout).Encode(verdicts)
}

func (p peer) matched() *matcher.TrafficPeer {
	if p.Namespace == "" {
		return &matcher.TrafficPeer{IP: p.IP}
	}
	return &matcher.TrafficPeer{
		IP: p.IP,
		Internal: &matcher.InternalPeer{
			PodLabels:       p.Labels,
			NamespaceLabels: p.NamespaceLabels,
			Namespace:       p.Namespace,
		},
	}
}
