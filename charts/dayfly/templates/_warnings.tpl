{{/* What works and is not safe, or not meant to stay. By name, for NOTES. */}}
{{- define "dayfly.warnings" -}}
{{- $several := include "dayfly.several" . -}}
{{- with .Values -}}
{{- if hasPrefix "registry.example.org/" .image.repository }}
- image.repository: it is a placeholder. Push the image that you built to a registry of yours, and name it.
{{- end }}
{{- if and (not .image.digest) (or (eq .image.tag "latest") (eq .image.tag "main")) }}
- image.tag: `{{ .image.tag }}` is something else tomorrow. Name a version, or a digest.
{{- end }}
{{- if .dangerPlaintext }}
- dangerPlaintext: credentials pass between pods in plain text unless a mesh encrypts them.
{{- end }}
{{- if eq .ledger.kind "redis" }}
{{- if .ledger.redis.dangerPlaintext }}
- ledger.redis.dangerPlaintext: whoever reads or changes what passes to Redis decides what is live.
{{- end }}
{{- if .ledger.redis.dangerNoPassword }}
- ledger.redis.dangerNoPassword: every pod that reaches Redis decides what is live.
{{- end }}
{{- if and (not .ledger.redis.username) .ledger.redis.existingSecret }}
- ledger.redis.username: it is the default user, which may do everything. An ACL user needs no keys but `{{ printf "{%s:*" .ledger.redis.prefix }}`.
{{- end }}
{{- end }}
{{- if not $several }}
- replicaCount: one. Nothing is issued and nothing ends while it starts anew.
{{- else if eq .signingKeys.kind "secret" }}
- signingKeys.kind: keys of a Secret are turned by nobody but you, and whoever may read Secrets here can sign tokens.
{{- end }}
{{- if not (or .rules.git.enabled (and (or .rules.agents.files .rules.agents.existingConfigMap) (or .rules.tools.files .rules.tools.existingConfigMap) (or .rules.policies.files .rules.policies.existingConfigMap))) }}
- rules: there are no agents, no tools or no policies, so nobody gets anything.
{{- end }}
{{- if and .thisCluster.enabled (not .thisCluster.tokenReview.enabled) }}
- thisCluster.tokenReview: it is off. The token of a pod that was deleted proves the pod until the token expires.
{{- end }}
{{- if not .networkPolicy.enabled }}
- networkPolicy.enabled: it is off. Whatever reaches the pods reaches /metrics and the API.
{{- else if not .listeners.operators.enabled }}
- listeners.operators: it is off, so /metrics is where agents are, and whoever may call Dayfly can read it.
{{- end }}
{{- if and .networkPolicy.enabled .listeners.operators.enabled (eq (toJson .networkPolicy.operatorsFrom) `[{"namespaceSelector":{}}]`) }}
- networkPolicy.operatorsFrom: it is every pod of this cluster, which reaches /metrics and the API of operators. Name who may, such as the namespace of Prometheus.
{{- end }}
{{- if and .httpRoute.enabled (include "dayfly.tls" $) }}
- httpRoute.enabled: Dayfly serves TLS, and a gateway speaks plain HTTP to it unless a BackendTLSPolicy for the Service `{{ include "dayfly.fullname" $ }}` says by which authority and name.
{{- end }}
{{- if and .networkPolicy.enabled (ne .service.type "ClusterIP") }}
- service.type: `{{ .service.type }}` is for who is outside, and `networkPolicy.from` has to let them in.
{{- end }}
{{- if not (and .metrics.serviceMonitor.enabled .metrics.prometheusRule.enabled) }}
- metrics: without `serviceMonitor` and `prometheusRule` nobody is told that a credential cannot be ended.
{{- end }}
{{- if and .metrics.prometheusRule.enabled (hasPrefix "https://docs.example.org/" .metrics.runbooks) }}
- metrics.runbooks: it is a placeholder, so alerts link to nothing. Say where you serve docs/guides/alerts.md.
{{- end }}
{{- if and $several (not .podDisruptionBudget.enabled) }}
- podDisruptionBudget.enabled: it is off. Draining nodes can stop all replicas at once.
{{- end }}
{{- if or (eq .persistence.retention.whenDeleted "Delete") (eq .persistence.retention.whenScaled "Delete") }}
- persistence.retention: journals are deleted with what wrote them: copy them first, or a lost ledger cannot be recovered.
{{- end }}
{{- range $key, $wanted := dict "readOnlyRootFilesystem" true "allowPrivilegeEscalation" false }}
{{- if ne (toString (get $.Values.securityContext $key)) (toString $wanted) }}
- securityContext.{{ $key }}: it is not {{ $wanted }}.
{{- end }}
{{- end }}
{{- $capabilities := default dict .securityContext.capabilities }}
{{- if .securityContext.privileged }}
- securityContext.privileged: it is true. Whoever has the container has the node.
{{- end }}
{{- if $capabilities.add }}
- securityContext.capabilities.add: Dayfly needs none.
{{- end }}
{{- if not (has "ALL" (default list $capabilities.drop)) }}
- securityContext.capabilities.drop: it has not `ALL`.
{{- end }}
{{- range $where, $context := dict "podSecurityContext" .podSecurityContext "securityContext" .securityContext }}
{{- if eq (toString (get $context "runAsUser")) "0" }}
- {{ $where }}.runAsUser: it is root.
{{- end }}
{{- if eq (dig "type" "" (default dict (get $context "seccompProfile"))) "Unconfined" }}
- {{ $where }}.seccompProfile: it is `Unconfined`.
{{- end }}
{{- end }}
{{- if not (or .podSecurityContext.seccompProfile .securityContext.seccompProfile) }}
- podSecurityContext.seccompProfile: there is none. Set `type: RuntimeDefault`.
{{- end }}
{{- if eq (toString .securityContext.runAsNonRoot) "false" }}
- securityContext.runAsNonRoot: it is false, whatever `podSecurityContext` says.
{{- end }}
{{- if ne (toString .podSecurityContext.runAsNonRoot) "true" }}
- podSecurityContext.runAsNonRoot: it is not true.
{{- end }}
{{- if ne (toString .podSecurityContext.fsGroupChangePolicy) "OnRootMismatch" }}
- podSecurityContext.fsGroupChangePolicy: it is not `OnRootMismatch`. The kubelet opens the keys to a group at the next start, and Dayfly refuses them.
{{- end }}
{{- end }}
{{- end -}}
