{{/* Names, labels, and what several objects need to know. */}}

{{- define "dayfly.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for what is put behind it: names of Services and of pods' labels have 63 characters. */}}
{{- define "dayfly.fullname" -}}
{{- $name := include "dayfly.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "dayfly.selector" -}}
app.kubernetes.io/name: {{ include "dayfly.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "dayfly.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{ include "dayfly.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "dayfly.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "dayfly.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image: {image, tag} */}}
{{- define "dayfly.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Whether Dayfly serves TLS itself: "yes" or nothing. */}}
{{- define "dayfly.tls" -}}
{{- if include "dayfly.tlsSecret" . -}}yes{{- end -}}
{{- end -}}

{{/* The Secret with the certificate, if there is one. */}}
{{- define "dayfly.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{- printf "%s-tls" (include "dayfly.fullname" .) -}}
{{- else -}}
{{- .Values.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* Whether there can be several replicas: "yes" or nothing. */}}
{{- define "dayfly.several" -}}
{{- if or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled -}}yes{{- end -}}
{{- end -}}

{{/* The port with /metrics, by name. */}}
{{- define "dayfly.metricsPort" -}}
{{- if .Values.listeners.operators.enabled -}}operators{{- else -}}agents{{- end -}}
{{- end -}}

{{/* Whether something needs the pod's own token: "yes" or nothing. */}}
{{- define "dayfly.ownToken" -}}
{{- $vault := false -}}
{{- range .Values.config.provider -}}
{{- if eq (dig "vault" "auth" "" .) "kubernetes" }}{{ $vault = true }}{{ end -}}
{{- end -}}
{{- if or .Values.thisCluster.enabled $vault -}}yes{{- end -}}
{{- end -}}

{{/* The host of `publicUrl`, without a port. */}}
{{- define "dayfly.host" -}}
{{- regexReplaceAll ":[0-9]+$" (get (urlParse .Values.publicUrl) "host") "" -}}
{{- end -}}

{{/* The path of `publicUrl`, or nothing. Dayfly itself knows none: whoever leads there has to take it away. */}}
{{- define "dayfly.path" -}}
{{- get (urlParse .Values.publicUrl) "path" -}}
{{- end -}}

{{/* The ports of the pod: name and number, as a JSON list. */}}
{{- define "dayfly.ports" -}}
{{- $ports := list (dict "name" "agents" "port" (int .Values.service.port)) -}}
{{- if .Values.listeners.tools.enabled -}}
{{- $ports = append $ports (dict "name" "tools" "port" (int .Values.listeners.tools.port)) -}}
{{- end -}}
{{- if .Values.listeners.operators.enabled -}}
{{- $ports = append $ports (dict "name" "operators" "port" (int .Values.listeners.operators.port)) -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}

{{/* A length of time as Dayfly writes them, such as 20, "90s" or "1h30m", in seconds. */}}
{{- define "dayfly.seconds" -}}
{{- $units := dict "s" 1 "m" 60 "h" 3600 "d" 86400 -}}
{{- $text := toString . -}}
{{- if regexMatch "^[0-9.e+]+$" $text -}}
{{- int64 . -}}
{{- else -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+[smhd]" $text -1 -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) (get $units (regexFind "[smhd]" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}
{{- end -}}

{{/* How long Dayfly may take to stop: it goes on answering, finishes what it has, and closes the journal. */}}
{{- define "dayfly.stopTakes" -}}
{{- $server := default dict .Values.config.server -}}
{{- $sum := 5 -}}
{{- range $key, $unset := dict "stop_delay" "0s" "drain_timeout" "20s" -}}
{{- $time := $unset -}}
{{- if not (kindIs "invalid" (get $server $key)) }}{{ $time = get $server $key | toString | default $unset }}{{ end -}}
{{- $sum = add $sum (include "dayfly.seconds" $time | int64) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* How long a pod has to stop. */}}
{{- define "dayfly.grace" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add (include "dayfly.stopTakes" . | int64) 10 -}}
{{- else -}}
{{- int64 .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* The ports of every address in a part of the configuration, one a line. Addresses are all texts that are URLs. */}}
{{- define "dayfly.portsOf" -}}
{{- if kindIs "map" . -}}
{{- range $key, $value := . }}
{{- include "dayfly.portsOf" $value }}
{{- if and (eq $key "postgres") (kindIs "map" $value) }}
{{ default 5432 $value.port | int }}
{{ else if eq $key "aws_sts" }}
443
{{ end }}
{{- end -}}
{{- else if kindIs "slice" . -}}
{{- range . }}{{ include "dayfly.portsOf" . }}{{ end -}}
{{- else if and (kindIs "string" .) (regexMatch "^(https?|rediss?)://" .) -}}
{{- $url := urlParse . -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) }}
{{ if $port }}{{ $port }}{{ else if hasPrefix "redis" $url.scheme }}6379{{ else if eq $url.scheme "https" }}443{{ else }}80{{ end }}
{{- /* What a Service of the API server leads to. */}}
{{ if contains "kubernetes.default" $url.host }}6443{{ end }}
{{ end -}}
{{- end -}}

{{/* The port of a repository. */}}
{{- define "dayfly.gitPort" -}}
{{- $port := regexFind ":[0-9]+(/|$)" (regexReplaceAll "^[a-z]+://" . "") -}}
{{- if $port -}}
{{- regexFind "[0-9]+" $port -}}
{{- else -}}
{{- ternary "443" "22" (hasPrefix "https://" .) -}}
{{- end -}}
{{- end -}}
