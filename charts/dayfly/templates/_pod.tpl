{{/* Parts of the pod. */}}

{{/* {root, path, probe} */}}
{{- define "dayfly.probe" -}}
httpGet:
  path: {{ .path }}
  port: agents
  scheme: {{ ternary "HTTPS" "HTTP" (eq (include "dayfly.tls" .root) "yes") }}
{{ toYaml .probe }}
{{- end -}}

{{/* git-sync, once or for good: {root, once} */}}
{{- define "dayfly.gitSync" -}}
{{- $git := .root.Values.rules.git -}}
image: {{ include "dayfly.image" (dict "image" $git.image "tag" "") }}
args:
  - --repo={{ $git.url }}
  - --ref={{ $git.ref }}
  - --root=/var/lib/dayfly-rules
  - --link=current
  - --depth=1
  {{- if .once }}
  - --one-time
  - --max-failures=5
  {{- else }}
  - --period={{ $git.period }}
  # What is in force stays in force while the repository cannot be reached.
  - --max-failures=-1
  {{- end }}
  {{- if $git.existingSecret }}
  {{- if hasPrefix "https://" $git.url }}
  - --password-file=/run/secrets/git/password
  {{- else }}
  - --ssh-key-file=/run/secrets/git/ssh-privatekey
  - --ssh-known-hosts-file=/run/secrets/git/known_hosts
  {{- end }}
  {{- end }}
{{- if and $git.existingSecret (hasPrefix "https://" $git.url) }}
env:
  - name: GITSYNC_USERNAME
    valueFrom:
      secretKeyRef:
        name: {{ $git.existingSecret }}
        key: username
{{- end }}
# The user that its image knows: SSH takes no other. What it writes anybody in the pod can read.
{{- $context := mustMergeOverwrite (deepCopy .root.Values.securityContext) (dict "runAsUser" 65533) }}
securityContext: {{- toYaml $context | nindent 2 }}
resources: {{- toYaml $git.resources | nindent 2 }}
volumeMounts:
  - name: rules
    mountPath: /var/lib/dayfly-rules
  - name: git-tmp
    mountPath: /tmp
  {{- if $git.existingSecret }}
  - name: git-secret
    mountPath: /run/secrets/git
    readOnly: true
  {{- end }}
{{- end -}}

{{- define "dayfly.mounts" -}}
- name: data
  mountPath: /var/lib/dayfly
{{- if eq .Values.signingKeys.kind "shared" }}
- name: signing-keys
  mountPath: /var/lib/dayfly-keys
{{- else if eq .Values.signingKeys.kind "secret" }}
- name: signing-keys
  mountPath: /run/dayfly-keys
{{- end }}
{{- if .Values.rules.git.enabled }}
- name: rules
  mountPath: /var/lib/dayfly-rules
  readOnly: true
{{- else }}
{{- range list "agents" "tools" "policies" }}
- name: {{ . }}
  mountPath: /etc/dayfly/{{ . }}
  readOnly: true
{{- end }}
{{- end }}
{{- range include "dayfly.secrets" . | fromJsonArray }}
- name: secret-{{ .name }}
  mountPath: /run/secrets/{{ .name }}
  readOnly: true
{{- end }}
{{- if include "dayfly.ownToken" . }}
- name: own-token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The Secrets that are mounted: name and Secret, as a JSON list. */}}
{{- define "dayfly.secrets" -}}
{{- $secrets := list -}}
{{- with include "dayfly.tlsSecret" . -}}
{{- $secrets = append $secrets (dict "name" "dayfly-tls" "secret" .) -}}
{{- end -}}
{{- if eq .Values.ledger.kind "redis" -}}
{{- with .Values.ledger.redis.existingSecret -}}
{{- $secrets = append $secrets (dict "name" "redis" "secret" .) -}}
{{- end -}}
{{- with .Values.ledger.redis.ca.existingSecret -}}
{{- $secrets = append $secrets (dict "name" "redis-ca" "secret" .) -}}
{{- end -}}
{{- end -}}
{{- range $name, $mount := .Values.secretMounts -}}
{{- $secrets = append $secrets (dict "name" $name "secret" $mount.existingSecret) -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end -}}

{{- define "dayfly.volumes" -}}
{{- with .Values.persistence.existingClaim -}}
- name: data
  persistentVolumeClaim:
    claimName: {{ . }}
{{ end -}}
{{- if eq .Values.signingKeys.kind "shared" -}}
- name: signing-keys
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-signing-keys" (include "dayfly.fullname" .)) .Values.signingKeys.existingClaim }}
{{ else if eq .Values.signingKeys.kind "secret" -}}
- name: signing-keys
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
- name: signing-keys-secret
  secret:
    secretName: {{ .Values.signingKeys.existingSecret }}
    defaultMode: 0400
{{ end -}}
{{- if .Values.rules.git.enabled -}}
- name: rules
  emptyDir:
    sizeLimit: 256Mi
- name: git-tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with .Values.rules.git.existingSecret }}
- name: git-secret
  secret:
    secretName: {{ . }}
    defaultMode: 0400
{{- end }}
{{ else -}}
{{- range list "agents" "tools" "policies" -}}
- name: {{ . }}
  configMap:
    name: {{ default (printf "%s-%s" (include "dayfly.fullname" $) .) (get (get $.Values.rules .) "existingConfigMap") }}
{{ end -}}
{{- end -}}
{{- range include "dayfly.secrets" . | fromJsonArray -}}
- name: secret-{{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0400
{{ end -}}
{{- if include "dayfly.ownToken" . -}}
- name: own-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
{{ end -}}
{{- with .Values.extraVolumes -}}
{{ toYaml . }}
{{ end -}}
{{- end -}}
