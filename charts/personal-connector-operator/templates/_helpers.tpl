{{- define "pco.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "pco.selectorLabels" -}}
{{- /* NetworkPolicies of hosted servers let in Pods with this name: it is the same in every release. */ -}}
app.kubernetes.io/name: personal-connector-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pco.labels" -}}
{{ include "pco.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "pco.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "pco.fullname" .) .Values.serviceAccount.name }}
{{- else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "pco.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{- define "pco.config" -}}
catalog: {{- toYaml .Values.catalog | nindent 2 }}
allowedImages: {{- toYaml .Values.allowedImages | nindent 2 }}
addressPolicy: {{- toYaml .Values.addressPolicy | nindent 2 }}
readSecrets: {{ .Values.rbac.readSecrets }}
readConfigMaps: {{ .Values.rbac.readConfigMaps }}
bridgeImage: {{ include "pco.image" . | quote }}
clusterDomain: {{ .Values.clusterDomain | quote }}
probe: {{- toYaml .Values.probe | nindent 2 }}
{{- end }}
