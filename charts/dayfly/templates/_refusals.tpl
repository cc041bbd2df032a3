{{/* What cannot be, all of it at once, each with what to do. Included by the StatefulSet, so that nothing is made when
there is any. */}}

{{- define "dayfly.refuse" -}}
{{- $faults := include "dayfly.faults" . | trim -}}
{{- if $faults -}}
{{- fail (printf "\n\nthese values cannot be used:\n%s\n" $faults) -}}
{{- end -}}
{{- end -}}

{{- define "dayfly.faults" -}}
{{- $several := include "dayfly.several" . -}}
{{- $tls := include "dayfly.tls" . -}}
{{- with .Values -}}
{{- if not .publicUrl }}
- publicUrl: it is missing: write where agents and tools reach Dayfly, such as `https://dayfly.example.org`
{{- else if and (hasPrefix "http://" .publicUrl) (not .dangerPlaintext) }}
- publicUrl: it is not https: serve TLS, or say `dangerPlaintext: true`
{{- end }}
{{- if and (not $tls) (not .dangerPlaintext) }}
- tls: Dayfly would speak plain HTTP to other pods: set `tls.existingSecret` or `tls.certManager.enabled: true`, or, where a mesh encrypts what passes between pods, `dangerPlaintext: true`
{{- else if and $tls .dangerPlaintext }}
- dangerPlaintext: Dayfly serves TLS: remove one of the two
{{- end }}
{{- if and (not $tls) (ne .tls.clientCertificates "none") }}
- tls.clientCertificates: without TLS nobody can show one: set `tls.existingSecret` or `tls.certManager.enabled: true`
{{- end }}
{{- with .tls }}
{{- if and .certManager.enabled .existingSecret }}
- tls.existingSecret: cert-manager makes one: remove it, or set `tls.certManager.enabled: false`
{{- end }}
{{- if and .certManager.enabled (not .certManager.issuer.name) }}
- tls.certManager.issuer.name: it is missing: name an Issuer of this namespace, or a ClusterIssuer and set `tls.certManager.issuer.kind`
{{- end }}
{{- if ge (include "dayfly.seconds" .certManager.renewBefore | int64) (include "dayfly.seconds" .certManager.duration | int64) }}
- tls.certManager.renewBefore: it is not less than `duration`: the certificate would be renewed without end
{{- end }}
{{- end }}
{{- if and $several (eq .ledger.kind "embedded") }}
- ledger.kind: several replicas cannot share the embedded ledger, which is one file: set `ledger.kind: redis`, or `replicaCount: 1` and no autoscaling
{{- end }}
{{- if and $several .persistence.existingClaim }}
- persistence.existingClaim: each replica has a journal of its own: leave it out, and each gets a claim
{{- end }}
{{- if and (eq .ledger.kind "embedded") .ledger.redis.urls }}
- ledger.redis: it has addresses and the ledger is embedded: set `ledger.kind: redis`, or remove them
{{- end }}
{{- if eq .ledger.kind "redis" }}
{{- include "dayfly.faultsOfRedis" .ledger.redis }}
{{- end }}
{{- include "dayfly.faultsOfKeys" (dict "keys" .signingKeys "several" $several) }}
{{- include "dayfly.faultsOfConfig" . }}
{{- include "dayfly.faultsOfRules" .rules }}
{{- if and .thisCluster.tokenReview.enabled (not .thisCluster.enabled) }}
- thisCluster.tokenReview: the cluster's tokens are not taken as evidence: set `thisCluster.enabled: true`
{{- end }}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) }}
- autoscaling.minReplicas: it is more than `autoscaling.maxReplicas`: change one of the two
{{- end }}
{{- if and .autoscaling.enabled (not (dig "requests" "cpu" "" .resources)) }}
- resources.requests.cpu: it is missing, and `autoscaling.targetCPU` is a share of it: nothing would ever be scaled
{{- end }}
{{- if and .podDisruptionBudget.enabled $several }}
{{- include "dayfly.faultsOfBudget" (dict "budget" .podDisruptionBudget "replicas" (ternary .autoscaling.minReplicas .replicaCount .autoscaling.enabled | int)) }}
{{- end }}
{{- if and .podDisruptionBudget.enabled (not (kindIs "invalid" .podDisruptionBudget.minAvailable)) (not (kindIs "invalid" .podDisruptionBudget.maxUnavailable)) }}
- podDisruptionBudget.minAvailable: `maxUnavailable` is set too: set one of the two to null
{{- end }}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) }}
- httpRoute.parentRefs: it is empty: name the gateway, such as `- name: public`
{{- end }}
{{- if and .ingress.enabled .httpRoute.enabled }}
- ingress.enabled: `httpRoute.enabled` is set too: keep one of the two
{{- end }}
{{- if and .ingress.enabled (include "dayfly.path" $) }}
- publicUrl: it has the path {{ include "dayfly.path" $ }}, which an Ingress cannot take away and Dayfly does not know: leave it out, or use `httpRoute`
{{- end }}
{{- if and .ingress.enabled .listeners.tools.enabled (not .listeners.operators.enabled) }}
- listeners.tools.enabled: an Ingress cannot tell the feed, which is for tools, from kill orders, which have its path: set `listeners.operators.enabled: true` too, or use `httpRoute`
{{- end }}
{{- $scrape := default dict .metrics.serviceMonitor.tlsConfig }}
{{- if and $tls .metrics.serviceMonitor.enabled (not $scrape.serverName) (not $scrape.insecureSkipVerify) }}
- metrics.serviceMonitor.tlsConfig: Prometheus asks pods by their addresses, which no certificate names: set `serverName` to a name that it has, and `ca` where its authority is not a public one
{{- end }}
{{- range $one, $other := dict "tools" (list .service.port) "operators" (list .service.port (ternary .listeners.tools.port 0 .listeners.tools.enabled)) }}
{{- $listener := get $.Values.listeners $one }}
{{- if and $listener.enabled (has (int $listener.port) (list (int (first $other)) (int (last $other)))) }}
- listeners.{{ $one }}.port: another listener has {{ int $listener.port }}: choose another port
{{- end }}
{{- end }}
{{- end }}
{{- $least := include "dayfly.stopTakes" . | int64 }}
{{- if lt (include "dayfly.grace" . | int64) $least }}
- terminationGracePeriodSeconds: Dayfly would be killed while requests finish: it takes {{ $least }} at least, which are `config.server.stop_delay`, `config.server.drain_timeout`, and 5 to close the journal
{{- end }}
{{- end -}}

{{/* Budgets that never let anything go, so that no node could be drained: {budget, replicas} */}}
{{- define "dayfly.faultsOfBudget" -}}
{{- $replicas := .replicas -}}
{{- with .budget -}}
{{- $least := toString .minAvailable | trimSuffix "%" | int -}}
{{- if and (kindIs "invalid" .minAvailable) (kindIs "invalid" .maxUnavailable) }}
- podDisruptionBudget.maxUnavailable: neither it nor `minAvailable` says anything: set `maxUnavailable: 1`
{{- else if and (kindIs "invalid" .minAvailable) (has (toString .maxUnavailable | trimSuffix "%") (list "0" "00")) }}
- podDisruptionBudget.maxUnavailable: with {{ .maxUnavailable }} no node could be drained: set 1
{{- else if and (kindIs "string" .minAvailable) (gt (mul $least $replicas) (mul 100 (sub $replicas 1))) }}
- podDisruptionBudget.minAvailable: {{ .minAvailable }} are all of {{ $replicas }}, so that no node could be drained: set less, or `maxUnavailable: 1` in place of it
{{- else if and (not (kindIs "string" .minAvailable)) (not (kindIs "invalid" .minAvailable)) (ge $least $replicas) }}
- podDisruptionBudget.minAvailable: {{ .minAvailable }} of {{ $replicas }} lets none go, so that no node could be drained: set less, or `maxUnavailable: 1` in place of it
{{- end }}
{{- end -}}
{{- end -}}

{{- define "dayfly.faultsOfRedis" -}}
{{- if not .urls }}
- ledger.redis.urls: it is empty: name Redis, such as `rediss://redis.example.org:6379`
{{- end }}
{{- range .urls }}
{{- if contains "@" . }}
- ledger.redis.urls: one has a user or a password: write `ledger.redis.username`, and put the password into the Secret `ledger.redis.existingSecret`
{{- else if and (hasPrefix "redis://" .) (not $.dangerPlaintext) (not (regexMatch "^redis://(127\\.|localhost|\\[::1\\])" .)) }}
- ledger.redis.urls: {{ . }} is plain text: write `rediss://`, or say `ledger.redis.dangerPlaintext: true`
{{- end }}
{{- end }}
{{- if and (eq .mode "sentinel") (not .master) }}
- ledger.redis.master: it is missing: write the name of the master set, as `SENTINEL masters` says it
{{- else if and (ne .mode "sentinel") .master }}
- ledger.redis.master: only sentinels know it: set `ledger.redis.mode: sentinel`, or remove it
{{- end }}
{{- if and (not .existingSecret) (not .dangerNoPassword) }}
- ledger.redis.existingSecret: it is missing: name the Secret with the password, or say `ledger.redis.dangerNoPassword: true`
{{- else if and .existingSecret .dangerNoPassword }}
- ledger.redis.dangerNoPassword: `ledger.redis.existingSecret` has a password: remove one of the two
{{- end }}
{{- if and .username (not .existingSecret) }}
- ledger.redis.username: a user has a password: name its Secret in `ledger.redis.existingSecret`
{{- end }}
{{- end -}}

{{- define "dayfly.faultsOfKeys" -}}
{{- $several := .several -}}
{{- with .keys -}}
{{- if and $several (eq .kind "own") }}
- signingKeys.kind: replicas with keys of their own would refuse each other's tokens: set `shared` with a ReadWriteMany volume, or `secret`
{{- end }}
{{- if and (eq .kind "shared") (not .existingClaim) (not .storageClass) }}
- signingKeys.storageClass: it is missing: name a class that offers ReadWriteMany, or a claim in `signingKeys.existingClaim`
{{- end }}
{{- if and (eq .kind "secret") (not .existingSecret) }}
- signingKeys.existingSecret: it is missing: name the Secret with `*.pem` and `ring.json`
{{- end }}
{{- if and (ne .kind "secret") .existingSecret }}
- signingKeys.existingSecret: it is used with `signingKeys.kind: secret` only
{{- end }}
{{- if and (ne .kind "shared") (or .existingClaim .storageClass) }}
- signingKeys.existingClaim, signingKeys.storageClass: they are used with `signingKeys.kind: shared` only
{{- end }}
{{- end -}}
{{- end -}}

{{- define "dayfly.faultsOfConfig" -}}
{{- $instead := dict
  "server.listen" "`service.port`"
  "server.public_url" "`publicUrl`"
  "server.danger_plaintext_listen" "`dangerPlaintext`"
  "server.tls" "`tls`"
  "server.tools" "`listeners.tools`"
  "server.operators" "`listeners.operators`"
  "registry.agents" "`rules`"
  "registry.tools" "`rules`"
  "policy.dirs" "`rules`"
  "tokens.keys" "`signingKeys`"
  "ledger.kind" "`ledger.kind` beside `config`"
  "ledger.embedded" "`persistence`"
  "ledger.redis" "`ledger.redis` beside `config`"
  "journal.dir" "`persistence`"
-}}
{{- $config := .config -}}
{{- range $path, $value := $instead }}
{{- $parts := splitList "." $path }}
{{- if hasKey (default dict (get $config (first $parts))) (last $parts) }}
- config.{{ $path }}: the chart writes it: use {{ $value }}
{{- end }}
{{- end }}
{{- if and (eq .signingKeys.kind "secret") (dig "tokens" "rotate_every" "" $config) }}
- config.tokens.rotate_every: keys of a Secret are turned by whoever makes it: remove it
{{- end }}
{{- $identity := default dict $config.identity }}
{{- if not (or .thisCluster.enabled $identity.trust_domain $identity.kubernetes $identity.oidc) }}
- config.identity: nobody could prove anything: set `thisCluster.enabled: true`, or add a `trust_domain`, `kubernetes` or `oidc`
{{- end }}
{{- include "dayfly.faultsOfSecrets" (dict "at" "config" "value" $config "mounts" .secretMounts) }}
{{- range $name := keys .secretMounts | sortAlpha }}
{{- if has $name (list "redis" "redis-ca" "dayfly-tls" "git") }}
- secretMounts.{{ $name }}: the chart mounts something there: choose another name
{{- end }}
{{- end }}
{{- end -}}

{{/* Secrets in plain sight, and files of secrets that nothing mounts: {at, value, mounts} */}}
{{- define "dayfly.faultsOfSecrets" -}}
{{- $at := .at -}}
{{- $mounts := .mounts -}}
{{- if kindIs "map" .value -}}
{{- range $key, $value := .value -}}
{{- $here := printf "%s.%s" $at $key -}}
{{- if kindIs "string" $value -}}
{{- if has $key (list "password" "token" "secret" "secret_id" "secret_access_key" "private_key" "api_key") }}
- {{ $here }}: secrets are not for values: put it into a Secret, mount that by `secretMounts`, and name the file in `{{ $key }}_file`
{{- else if hasPrefix "/run/secrets/" $value }}
{{- $name := index (splitList "/" $value) 3 }}
{{- if not (hasKey $mounts $name) }}
- {{ $here }}: nothing mounts {{ $value }}: add `secretMounts.{{ $name }}.existingSecret`
{{- end }}
{{- end -}}
{{- end -}}
{{- include "dayfly.faultsOfSecrets" (dict "at" $here "value" $value "mounts" $mounts) -}}
{{- end -}}
{{- else if kindIs "slice" .value -}}
{{- range $index, $value := .value -}}
{{- include "dayfly.faultsOfSecrets" (dict "at" (printf "%s[%d]" $at $index) "value" $value "mounts" $mounts) -}}
{{- end -}}
{{- else if kindIs "string" .value -}}
{{- if contains "PRIVATE KEY-----" .value }}
- {{ $at }}: a private key is not for values: put it into a Secret, and mount that by `secretMounts`
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "dayfly.faultsOfRules" -}}
{{- $git := .git -}}
{{- $rules := . -}}
{{- range list "agents" "tools" "policies" }}
{{- $part := get $rules . }}
{{- if and $part.files $part.existingConfigMap }}
- rules.{{ . }}: it has files and names a ConfigMap: keep one of the two
{{- else if and $git.enabled (or $part.files $part.existingConfigMap) }}
- rules.{{ . }}: all three come from Git: remove it, or set `rules.git.enabled: false`
{{- end }}
{{- end }}
{{- if $git.enabled }}
{{- if not $git.url }}
- rules.git.url: it is missing: write where the repository is
{{- else if hasPrefix "http://" $git.url }}
- rules.git.url: whoever is on the way could change who may do what: write `https://` or `ssh://`
{{- else if contains "@" (regexReplaceAll "^(ssh://)?git@" $git.url "") }}
- rules.git.url: it has a user or a password: put them into the Secret `rules.git.existingSecret`
{{- else if and (not (hasPrefix "https://" $git.url)) (not $git.existingSecret) }}
- rules.git.existingSecret: it is missing: name the Secret with `ssh-privatekey` and `known_hosts`
{{- end }}
{{- end }}
{{- end -}}
