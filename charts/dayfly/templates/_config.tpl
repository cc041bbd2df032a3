{{/* dayfly.toml: `config`, and what the chart writes itself. */}}

{{/* Makes of numbers what TOML takes for whole numbers, and leaves out what is null. Changes the map. */}}
{{- define "dayfly.whole" -}}
{{- $map := . -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- include "dayfly.whole" $value -}}
{{- else if kindIs "slice" $value -}}
{{- $items := list -}}
{{- range $value -}}
{{- if kindIs "map" . -}}
{{- include "dayfly.whole" . -}}
{{- $items = append $items . -}}
{{- else if not (kindIs "float64" .) -}}
{{- $items = append $items . -}}
{{- else if eq (floor .) . -}}
{{- $items = append $items (int64 .) -}}
{{- else -}}
{{- $items = append $items . -}}
{{- end -}}
{{- end -}}
{{- $_ := set $map $key $items -}}
{{- else if kindIs "invalid" $value -}}
{{- $_ := unset $map $key -}}
{{- else if kindIs "float64" $value -}}
{{- if eq (floor $value) $value }}{{ $_ := set $map $key (int64 $value) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the chart writes itself, as YAML. */}}
{{- define "dayfly.managed" -}}
server:
  listen: {{ printf "%s:%d" .Values.service.listen (int .Values.service.port) | quote }}
  public_url: {{ .Values.publicUrl | quote }}
  {{- if not (include "dayfly.tls" .) }}
  danger_plaintext_listen: true
  {{- else }}
  tls:
    cert_file: /run/secrets/dayfly-tls/tls.crt
    key_file: /run/secrets/dayfly-tls/tls.key
    {{- if ne .Values.tls.clientCertificates "none" }}
    client_certificates: {{ .Values.tls.clientCertificates | quote }}
    {{- end }}
  {{- end }}
  {{- if .Values.listeners.tools.enabled }}
  tools:
    listen: {{ printf "%s:%d" .Values.service.listen (int .Values.listeners.tools.port) | quote }}
  {{- end }}
  {{- if .Values.listeners.operators.enabled }}
  operators:
    listen: {{ printf "%s:%d" .Values.service.listen (int .Values.listeners.operators.port) | quote }}
  {{- end }}
registry:
  agents: {{ include "dayfly.rulesAt" . }}/agents
  tools: {{ include "dayfly.rulesAt" . }}/tools
policy:
  dirs: [{{ include "dayfly.rulesAt" . }}/policies]
tokens:
  {{- if eq .Values.signingKeys.kind "own" }}
  keys: /var/lib/dayfly/keys
  {{- else if eq .Values.signingKeys.kind "shared" }}
  keys: /var/lib/dayfly-keys/keys
  {{- else }}
  keys: /run/dayfly-keys/keys
  # Replicas that turned them by themselves would each make a next key of its own.
  rotate_every: 365d
  {{- end }}
ledger:
  kind: {{ .Values.ledger.kind }}
  {{- if eq .Values.ledger.kind "embedded" }}
  embedded:
    path: /var/lib/dayfly/ledger.redb
  {{- else }}
  redis:
    {{- with .Values.ledger.redis }}
    mode: {{ .mode }}
    urls: {{ toJson .urls }}
    {{- with .master }}
    master: {{ quote . }}
    {{- end }}
    prefix: {{ quote .prefix }}
    shards: {{ int .shards }}
    {{- with .username }}
    username: {{ quote . }}
    {{- end }}
    {{- if .existingSecret }}
    password_file: /run/secrets/redis/{{ .passwordKey }}
    {{- end }}
    {{- if .ca.existingSecret }}
    ca_file: /run/secrets/redis-ca/{{ .ca.key }}
    {{- end }}
    {{- end }}
  {{- end }}
journal:
  dir: /var/lib/dayfly/journal
{{- end -}}

{{/* The cluster that this is, as an authority. */}}
{{- define "dayfly.thisCluster" -}}
name: {{ .name | quote }}
issuer: {{ .issuer | quote }}
jwks_url: {{ .url }}/openid/v1/jwks
ca_file: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
token_file: /var/run/secrets/kubernetes.io/serviceaccount/token
{{- if .tokenReview.enabled }}
token_review:
  url: {{ .url | quote }}
  remember: {{ .tokenReview.remember | quote }}
{{- end }}
{{- end -}}

{{/* Where agents, tools and policies are. */}}
{{- define "dayfly.rulesAt" -}}
{{- if .Values.rules.git.enabled -}}
{{- printf "/var/lib/dayfly-rules/current/%s" (.Values.rules.git.path | trimAll "/") | trimSuffix "/" -}}
{{- else -}}
/etc/dayfly
{{- end -}}
{{- end -}}

{{/* All of it, as a map in JSON. */}}
{{- define "dayfly.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.thisCluster.enabled -}}
{{- $identity := default dict $config.identity -}}
{{- $cluster := include "dayfly.thisCluster" .Values.thisCluster | fromYaml -}}
{{- $_ := set $identity "kubernetes" (append (default list $identity.kubernetes) $cluster) -}}
{{- $_ := set $config "identity" $identity -}}
{{- end -}}
{{- $config = mustMergeOverwrite $config (include "dayfly.managed" . | fromYaml) -}}
{{- toJson $config -}}
{{- end -}}

{{- define "dayfly.toml" -}}
{{- $config := include "dayfly.config" . | fromJson -}}
{{- include "dayfly.whole" $config -}}
{{- /* No value has more than one line, so that this takes away indents and nothing else. */ -}}
{{- regexReplaceAll "(?m)^ +" (toToml $config) "" | trim -}}
{{- end -}}
