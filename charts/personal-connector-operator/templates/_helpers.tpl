{{- define "pco.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "pco.selectorLabels" -}}
{{- /* NetworkPolicies of hosted servers let in Pods with this name: it is the same in every release. */ -}}
app.kubernetes.io/name: personal-connector-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "pco.podSelectorLabels" -}}
{{ include "pco.selectorLabels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{- /* The labels of every object. Those that selectors use cannot be replaced by commonLabels. */ -}}
{{- define "pco.labels" -}}
{{- $own := include "pco.podSelectorLabels" . | fromYaml }}
{{- $rest := dict "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- toYaml (mergeOverwrite $rest .Values.commonLabels $own) }}
{{- end }}

{{- define "pco.podLabels" -}}
{{- $own := include "pco.podSelectorLabels" . | fromYaml }}
{{- toYaml (mergeOverwrite (include "pco.labels" . | fromYaml) .Values.podLabels $own) }}
{{- end }}

{{- define "pco.serviceAccountName" -}}
{{- default (include "pco.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "pco.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end }}
{{- end }}

{{- define "pco.config" -}}
catalog: {{- toYaml .Values.catalog | nindent 2 }}
allowedImages: {{- toYaml .Values.allowedImages | nindent 2 }}
addressPolicy: {{- toYaml .Values.addressPolicy | nindent 2 }}
readSecrets: {{ .Values.rbac.readSecrets }}
readConfigMaps: {{ .Values.rbac.readConfigMaps }}
clusterDomain: {{ .Values.clusterDomain | quote }}
probe: {{- toYaml .Values.probe | nindent 2 }}
{{- end }}

{{- /* What the operator may do where it looks after connectors: cluster-wide, or in each of watchNamespaces. */ -}}
{{- define "pco.rules" -}}
- apiGroups: [connectors.aitronos.com]
  resources: [personalconnectors]
  verbs: [list, watch]
- apiGroups: [connectors.aitronos.com]
  resources: [personalconnectors/status]
  verbs: [patch]
# What is made for aitronos_built connectors. A server-side apply needs create and patch.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Why a hosted server does not run.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- if .Values.rbac.readSecrets }}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
{{- end }}
{{- if .Values.rbac.readConfigMaps }}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
{{- end }}
{{- end }}

{{- /* How many Pods there are. */ -}}
{{- define "pco.replicas" -}}
{{- .Values.sharding.replicas | default .Values.replicas }}
{{- end }}

{{- /* Settings that contradict each other: said here, where the schema of the values cannot. */ -}}
{{- define "pco.validate" -}}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) }}
{{- fail "serviceAccount.create is false: name in serviceAccount.name the one to use. The namespace's default one would hand the operator's rights to every Pod there" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled }}
{{- fail "metrics.serviceMonitor.enabled and metrics.podMonitor.enabled: with both, each figure would be there twice; enable one" }}
{{- end }}
{{- range .Values.addressPolicy.ports }}
{{- $range := splitList "-" (toString .) }}
{{- if or (gt (int (first $range)) (int (last $range))) (gt (int (last $range)) 65535) }}
{{- fail (printf "addressPolicy.ports: %q is no port: write it like 443, or 1024-65535 for a range" (toString .)) }}
{{- end }}
{{- end }}
{{- if eq (int .Values.sharding.replicas) 1 }}
{{- fail "sharding.replicas: 1 shares nothing; set 0, so that one of `replicas` works, or 2 and more" }}
{{- end }}
{{- if and .Values.sharding.replicas (gt (int .Values.replicas) 1) }}
{{- fail (printf "replicas is %d and sharding.replicas %d: with sharding, that many Pods work and none stands by; leave replicas at 1" (int .Values.replicas) (int .Values.sharding.replicas)) }}
{{- end }}
{{- $names := list "CONFIG_FILE" "LOG_LEVEL" "WORKERS" "WATCH_NAMESPACE" "BRIDGE_IMAGE" "LEASE_NAME" "LEASE_NAMESPACE" "SHARE_AMONG" "POD_NAME" "POD_NAMESPACE" "HEALTH_HOST" "HEALTH_PORT" }}
{{- range .Values.extraEnv }}
{{- if has .name $names }}
{{- fail (printf "extraEnv: %s is the chart's own, or stands there twice; remove it, and use the value of the chart for it if there is one" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- end }}

{{- /* What a ServiceMonitor and a PodMonitor have in common: how the metrics are scraped. */ -}}
{{- define "pco.scrapeEndpoint" -}}
port: http
{{- with .interval }}
interval: {{ . | quote }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . | quote }}
{{- end }}
{{- with .relabelings }}
relabelings: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
