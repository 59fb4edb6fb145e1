{{- define "orchard.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* The participant's folder in every pod: the configuration, its secrets as files, and the shared state. */}}
{{- define "orchard.mounts" -}}
- {name: configuration, mountPath: /participant/orchard.toml, subPath: orchard.toml, readOnly: true}
{{- range list "identity.key" "membership.jwt" "authority.json" "operator.token" "pseudonym.key" }}
- {name: identity, mountPath: /participant/{{ . }}, subPath: {{ . }}, readOnly: true}
{{- end }}
- {name: state, mountPath: /participant/blobs, subPath: blobs}
- {name: state, mountPath: /participant/state, subPath: state}
- {name: state, mountPath: /participant/datasets, subPath: datasets}
- {name: run, mountPath: /participant/run}
{{- end }}

{{- define "orchard.volumes" -}}
- name: configuration
  configMap: {name: {{ .Release.Name }}-configuration}
- name: identity
  secret: {secretName: {{ .Values.identitySecret }}, defaultMode: 0400}
- name: state
  persistentVolumeClaim: {claimName: {{ .Release.Name }}-state}
- name: run
  emptyDir: {}
{{- end }}
