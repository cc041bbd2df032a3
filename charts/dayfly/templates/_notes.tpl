{{/* What is printed after an installation. */}}
{{- define "dayfly.notes" -}}
Dayfly {{ .Chart.AppVersion }} as {{ include "dayfly.fullname" . }} in {{ .Release.Namespace }}, with {{ if .Values.autoscaling.enabled }}{{ .Values.autoscaling.minReplicas }} to {{ .Values.autoscaling.maxReplicas }} replicas{{ else }}{{ .Values.replicaCount }} {{ ternary "replica" "replicas" (eq (int .Values.replicaCount) 1) }}{{ end }} on {{ ternary "the embedded ledger" "Redis" (eq .Values.ledger.kind "embedded") }}.

1. Wait until it is ready:

  kubectl -n {{ .Release.Namespace }} rollout status statefulset/{{ include "dayfly.fullname" . }}

2. Have it look at what it works with, from where it runs, and say what is unsafe:

  kubectl -n {{ .Release.Namespace }} exec {{ include "dayfly.fullname" . }}-0 -c dayfly -- /usr/local/bin/dayfly doctor --config /etc/dayfly/dayfly.toml

{{- $broker := .Values.publicUrl }}
{{- if not (or (include "dayfly.tls" .) .Values.ingress.enabled .Values.httpRoute.enabled) }}
{{- $broker = printf "http://127.0.0.1:%d" (int .Values.service.port) }}

3. Reach it from here, in a terminal of its own:

  kubectl -n {{ .Release.Namespace }} port-forward service/{{ include "dayfly.fullname" . }} {{ .Values.service.port }}:{{ .Values.service.port }}
{{- else }}

3. See that it is reached where agents look for it:

  curl --fail {{ .Values.publicUrl }}/readyz
{{- end }}
{{ if .Values.thisCluster.enabled }}
4. Open a task as the service account of an agent:

  kubectl --namespace AGENTS create token ACCOUNT --audience {{ dig "identity" "audiences" (list .Values.publicUrl) .Values.config | first }} --duration 10m > evidence.jwt
  dayfly task open --broker {{ $broker }} --evidence evidence.jwt --purpose 'try it' --access TOOL:ACTION@RESOURCE
{{ else }}
4. Open a task with the evidence of an agent:

  dayfly task open --broker {{ $broker }} --evidence evidence.jwt --purpose 'try it' --access TOOL:ACTION@RESOURCE
{{ end }}
When it does not start, its log says why: kubectl -n {{ .Release.Namespace }} logs statefulset/{{ include "dayfly.fullname" . }}
{{- with include "dayfly.warnings" . | trim }}

Before you rely on it:

{{ . }}
{{- end }}
{{- end -}}
