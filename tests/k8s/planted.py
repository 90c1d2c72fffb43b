# ruff: noqa: E501 - a table, one mistake a line
"""One mistake of each kind, to be planted in the files of k8s/; what must be said of each."""

from dataclasses import dataclass

from tests.k8s.manifests import Variant

POOL = Variant("gpu-pool")
DEPLOYMENT = "base/deployment.yaml"
SETTINGS = "base/kustomization.yaml"
SCALED = "components/keda/scaled-object.yaml"
POLICY = "base/network-policy.yaml"
TRACED = Variant("cpu", ("tracing",))
WARM = "components/warm-pool/deployment.yaml"
BESIDE = "components/one-node/beside-the-server.yaml"
LOADTEST = "components/loadtest/network-policy.yaml"


@dataclass(frozen=True, slots=True)
class Plant:
    """A mistake: in which file, what stands there, what is put in its place, and what must be said of it."""

    file: str
    right: str
    wrong: str
    said: str
    variant: Variant = POOL

    def __str__(self) -> str:
        """What must be said, and of what."""
        return f"{self.said} - {' '.join(self.wrong.split())} - {self.variant}"


SERVER = "Deployment headrace"
CONTAINER = f"{SERVER}/headrace"
BEYOND_SCHEMAS = (
    # pods
    Plant(DEPLOYMENT, "runAsNonRoot: true", "runAsNonRoot: false", f"{SERVER}: may run as root"),
    Plant(DEPLOYMENT, "type: RuntimeDefault", "type: Unconfined", f"{SERVER}: has no seccomp profile"),
    Plant(DEPLOYMENT, "enableServiceLinks: false", "hostIPC: true", f"{SERVER}: hostIPC is on"),
    Plant(DEPLOYMENT, "enableServiceLinks: false", "enableServiceLinks: true", f"{SERVER}: gets variables of every Service"),
    Plant(DEPLOYMENT, "emptyDir: {sizeLimit: 1Gi}\n        - name: tmp", "hostPath: {path: /}\n        - name: tmp", "refuses"),
    Plant(DEPLOYMENT, "automountServiceAccountToken: false", "automountServiceAccountToken: true", f"{SERVER}: gets a token"),
    Plant(DEPLOYMENT, "ScheduleAnyway", "DoNotSchedule", f"{SERVER}: a hard spread"),
    Plant(DEPLOYMENT, "allowPrivilegeEscalation: false", "privileged: true", f"{CONTAINER}: may gain privileges"),
    Plant(DEPLOYMENT, "drop: [ALL]", "drop: [NET_RAW]", f"{CONTAINER}: keeps capabilities"),
    Plant(DEPLOYMENT, "drop: [ALL]", "drop: [ALL]\n              add: [SYS_PTRACE]", f"{CONTAINER}: keeps"),
    Plant(DEPLOYMENT, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", f"{CONTAINER}: has a writable root"),
    Plant(DEPLOYMENT, "drop: [ALL]", "drop: [ALL]\n            runAsUser: 0", f"{CONTAINER}: may run as root"),
    Plant("overlays/gpu-pool/kustomization.yaml", "newTag: 0.1.0-cuda", "newTag: latest", "has no fixed tag"),
    Plant(DEPLOYMENT, 'requests: {cpu: "2", memory: 8Gi, nvidia.com/gpu: 1}', 'requests: {cpu: "2", memory: 8Gi, nvidia.com/gpu: 2}', f"{CONTAINER}: GPUs requested"),
    Plant(DEPLOYMENT, 'requests: {cpu: "2", memory: 8Gi', 'requests: {cpu: "2", memory: 4Gi', f"{CONTAINER}: memory requested"),
    Plant(DEPLOYMENT, "{name: home, mountPath", "{name: hone, mountPath", f"{CONTAINER}: mounts hone"),
    Plant(DEPLOYMENT, "priorityClassName: headrace-serving", "priorityClassName: headrace-urgent", "needs PriorityClass headrace-urgent"),
    Plant(DEPLOYMENT, "serviceAccountName: headrace", "serviceAccountName: default", "needs ServiceAccount default"),
    Plant(DEPLOYMENT, "{claimName: headrace-models, ", "{claimName: models, ", "needs PersistentVolumeClaim models"),
    Plant(DEPLOYMENT, "{secretName: headrace-keys}", "{secretName: headrace-kees}", "needs Secret headrace-kees"),
    Plant(DEPLOYMENT, "configMap: {name: headrace-model}", "configMap: {name: headrace-modal}", "needs ConfigMap headrace-modal"),
    Plant(DEPLOYMENT, "name: headrace\n          ports:", "name: headrice\n          ports:", "needs ConfigMap headrice"),
    # network
    Plant(DEPLOYMENT, "matchLabels: *labels\n  strategy", "matchLabels: {app: headrace}\n  strategy", "its selector does not choose"),
    Plant("base/service.yaml", "component: server", "component: serving", "Service headrace: chooses []"),
    Plant("base/service.yaml", "    app.kubernetes.io/component: server\n", "", "and not the server alone"),
    Plant("base/service.yaml", "targetPort: http", "targetPort: web", "Service headrace: target port web"),
    Plant("components/gateway-api/route.yaml", "port: 80", "port: 8000", "HTTPRoute headrace: there is no Service", Variant("prod")),
    Plant("components/ingress/ingress.yaml", "{name: http}", "{name: https}", "Ingress headrace: there is no Service", Variant("cpu", ("ingress",))),
    Plant("components/podmonitor/pod-monitor.yaml", "port: metrics", "port: metric", "PodMonitor headrace: chooses no pod", Variant("prod")),
    Plant("components/servicemonitor/service-monitor.yaml", "component: metrics", "component: server", "ServiceMonitor headrace: chooses no", Variant("cpu", ("servicemonitor",))),
    Plant("overlays/prod/kustomization.yaml", "components/podmonitor\n", "components/podmonitor\n  - ../../components/servicemonitor\n", "two monitors", Variant("prod")),
    Plant(POLICY, "policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]", "no NetworkPolicy denies"),
    Plant(POLICY, "component: model-fetch", "component: fetch", "NetworkPolicy headrace-model-fetch: chooses []"),
    Plant(POLICY, "      ports:\n        - {port: http}\n", "", "NetworkPolicy headrace: opens more"),
    Plant(POLICY, "{port: metrics}", "{port: 9091}", "NetworkPolicy headrace: opens more"),
    Plant(POLICY, "  policyTypes: [Ingress]\n  ingress:", "  policyTypes: [Ingress, Egress]\n  egress: [{}]\n  ingress:", "lets ['Deployment headrace'] out"),
    Plant("components/tracing/network-policy.yaml", "          podSelector:\n            matchLabels:\n              app.kubernetes.io/name: opentelemetry-collector\n", "", "NetworkPolicy headrace-tracing: lets", TRACED),
    Plant("components/tracing/network-policy.yaml", "{port: 4318}", "{port: 4317}", "lets it reach http://otel-collector", TRACED),
    Plant("components/tracing/kustomization.yaml", "otel-collector.monitoring", "otel-collector.default", "lets it reach http://otel-collector", TRACED),
    Plant("components/tracing/kustomization.yaml", "http://otel", "otel", "is not a URL such as", TRACED),
    Plant(LOADTEST, "          podSelector:\n            matchLabels:\n              k8s-app: kube-dns\n", "", "lets ['Job headrace-loadtest'] out", Variant("cpu", ("loadtest",))),
    Plant(LOADTEST, "component: server\n      ports:\n        - {port: http}", "component: server", "lets ['Job headrace-loadtest'] out", Variant("cpu", ("loadtest",))),
    Plant(POLICY, "        - ipBlock: {cidr: 169.254.20.10/32} # NodeLocal DNSCache\n", "", "NetworkPolicy headrace-model-fetch: lets nobody ask for a name"),
    Plant(POLICY, "        - {port: 53, protocol: TCP}\n", "        - {port: 54, protocol: TCP}\n", "NetworkPolicy headrace-model-fetch: lets nobody ask for a name"),
    Plant(LOADTEST, "cidr: 169.254.20.10/32", "cidr: 169.254.0.0/16", "lets ['Job headrace-loadtest'] out", Variant("cpu", ("loadtest",))),
    Plant(SCALED, "svc.cluster.local:9090", "svc.cluster.local:9091", "is no port of a Service here"),
    Plant(SCALED, "headrace-metrics.headrace.svc", "headrace-metrics.default.svc", "is no port of a Service here"),
    # scaling
    Plant("overlays/gpu-pool/kustomization.yaml", "components/keda\n", "components/keda\n  - ../../components/hpa\n", "two autoscalers"),
    Plant(DEPLOYMENT, "  selector:\n    matchLabels: *labels\n  strategy", "  replicas: 3\n  selector:\n    matchLabels: *labels\n  strategy", "names replicas"),
    Plant("overlays/cpu/kustomization.yaml", "replicas:\n  - {name: headrace, count: 1}\n", "", "nobody says how many", Variant("cpu")),
    Plant(SCALED, "scaleTargetRef:\n    name: headrace", "scaleTargetRef:\n    name: headrice", "scales headrice"),
    Plant(SCALED, "minReplicaCount: 1", "minReplicaCount: 9", "from 9 to 8 pods"),
    Plant(SCALED, "minReplicaCount: 1", "minReplicaCount: 0", "from 0 to 8 pods"),
    Plant("components/hpa/autoscaler.yaml", "minReplicas: 1", "minReplicas: 9", "from 9 to 8 pods", Variant("gpu-pool", (), "hpa")),
    Plant("components/hpa/autoscaler.yaml", "type: AverageValue\n          averageValue", "type: Value\n          value", "not an average of an external", Variant("gpu-pool", (), "hpa")),
    Plant("components/hpa/autoscaler.yaml", "type: AverageValue\n          averageValue", "type: AverageValue\n          value", "not an average of an external", Variant("gpu-pool", (), "hpa")),
    Plant("components/hpa/autoscaler.yaml", "- type: External\n      external:", "- type: Object\n      object:", "not an average of an external", Variant("gpu-pool", (), "hpa")),
    Plant(POLICY, "    - from: # callers: `kubectl label namespace THEIRS headrace-caller=true`\n        - namespaceSelector:\n            matchLabels:\n              headrace-caller: \"true\"\n      ports:", "    - ports:", "NetworkPolicy headrace: opens more"),
    Plant(SCALED, "metricType: AverageValue", "metricType: Value", "not an average of a sum"),
    Plant("components/keda-prometheus/scaled-object.yaml", 'ignoreNullValues: "false"', 'ignoreNullValues: "true"', "takes no data for no demand", Variant("gpu-pool", (), "keda-prometheus")),
    Plant(SCALED, "behavior: currentReplicasIfHigher", "behavior: static", "would let pods go"),
    Plant(SCALED, "{type: Percent, value: 100, periodSeconds: 15}", "{type: Percent, value: 50, periodSeconds: 15}", "moves otherwise than"),
    Plant("components/hpa/autoscaler.yaml", "stabilizationWindowSeconds: 300", "stabilizationWindowSeconds: 30", "moves otherwise than", Variant("gpu-pool", (), "hpa")),
    Plant(WARM, "    rollingUpdate: {maxSurge: 0, maxUnavailable: 1}", "    rollingUpdate: {maxSurge: 2, maxUnavailable: 0}", "11 x nvidia.com/gpu are wanted", Variant("gpu-pool", ("warm-pool",))),
    Plant(WARM, "  strategy: # its own rollout takes no GPU more\n    rollingUpdate: {maxSurge: 0, maxUnavailable: 1}\n", "", "11 x nvidia.com/gpu are wanted", Variant("gpu-pool", ("surge", "warm-pool"))),
    Plant(WARM, 'values: ["15000"]', 'values: ["8000"]', "holds nodes that the server cannot use", Variant("gpu-pool", ("warm-pool",))),
    Plant(WARM, "values: [nvidia-l4]", "values: [nvidia-tesla-t4]", "holds nodes that the server cannot use", Variant("gke", ("warm-pool",))),
    # volumes
    Plant("base/model-cache.yaml", "ReadWriteMany", "ReadWriteOnce", "pods on several nodes cannot mount it"),
    Plant(BESIDE, "component: server", "component: serving", "the fetch Job may be on a node", Variant("gpu-single")),
    Plant(BESIDE, "key: nvidia.com/gpu", "key: nvidia.com/gpus", "the fetch Job may be on a node", Variant("gpu-single")),
    Plant(DEPLOYMENT, "headrace-models, readOnly: true}", "headrace-models}", "may write the models"),
    Plant("base/model-fetch.yaml", "        fsGroup: 10001\n", "", "Job headrace-model-fetch: a volume may belong to root"),
    Plant(DEPLOYMENT, "maxUnavailable: 1", "maxUnavailable: 0", "a rollout could never begin"),
    Plant("overlays/gpu-pool/kustomization.yaml", 'value: "10"', 'value: "7"', "8 x nvidia.com/gpu are wanted"),
    Plant("overlays/gpu-pool/kustomization.yaml", 'value: "10"', 'value: "8"', "9 x nvidia.com/gpu are wanted", Variant("gpu-pool", ("surge",))),
    Plant("overlays/gpu-pool/kustomization.yaml", 'value: "10"', 'value: "8"', "9 x nvidia.com/gpu are wanted", Variant("gpu-pool", ("warm-pool",))),
    Plant("base/disruption-budget.yaml", "AlwaysAllow", "IfHealthyBudget", "would block the drain"),
    Plant("base/disruption-budget.yaml", "maxUnavailable: 1", "maxUnavailable: 0", "lets no pod go"),
    # the server
    Plant("overlays/gpu-pool/kustomization.yaml", "newTag: 0.1.0-cuda", "newTag: 0.0.9-cuda", "is not of version 0.1.0"),
    Plant(DEPLOYMENT, "args: [serve]", "args: [server]", "there is no command 'server'"),
    Plant(DEPLOYMENT, "args: [serve]", "args: [serve, --drain-dealy, '5']", "--drain-dealy: is not a setting"),
    Plant(SETTINGS, "HEADRACE_DRAIN_DELAY=5", "HEADRACE_DRAIN_DELAY=5s", "'5s' is not a number of seconds"),
    Plant(SETTINGS, "HEADRACE_KEYS=/etc/headrace/keys/keys", "HEADRACE_KEYS=", "anyone who reaches the address"),
    Plant(SETTINGS, "HEADRACE_KEYS=/etc/headrace/keys/keys", "HEADRACE_ALLOW_ANONYMOUS=true", "answers whoever reaches it"),
    Plant(SETTINGS, "HEADRACE_KEYS=/etc/headrace/keys/keys", "HEADRACE_KEYS=/etc/headrace/keys", "where no Secret is mounted"),
    Plant(DEPLOYMENT, "mountPath: /etc/headrace/keys,", "mountPath: /etc/keys,", "where no Secret is mounted"),
    Plant("components/loadtest/callers.toml", "loadtest-key/key", "loadtest/key", "calls without a key", Variant("cpu", ("loadtest",))),
    Plant("components/loadtest/kustomization.yaml", ", callers.toml", "", "calls without a key", Variant("cpu", ("loadtest",))),
    Plant(SETTINGS, "HEADRACE_PORT=8000", "HEADRACE_PORT=8080", "are not those it listens on"),
    Plant(DEPLOYMENT, "containerPort: 9090", "containerPort: 9091", "are not those it listens on"),
    Plant(SETTINGS, "HEADRACE_HOST=0.0.0.0", "HEADRACE_HOST=127.0.0.1", "where no Service reaches it"),
    Plant(DEPLOYMENT, "httpGet: {path: /livez, port: http}", "httpGet: {path: /alive, port: http}", "livenessProbe asks for"),
    Plant(DEPLOYMENT, "httpGet: {path: /livez, port: http}", "httpGet: {path: /livez, port: metrics}", "livenessProbe asks for"),
    Plant(DEPLOYMENT, "httpGet: {path: /livez, port: http}", "httpGet: {path: /readyz, port: http}", "a drain would look like a death"),
    Plant(DEPLOYMENT, "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 45", "is killed after 45 s"),
    Plant(DEPLOYMENT, "seconds: 10", "seconds: 30", "its drain may take 70 s"),
    Plant(DEPLOYMENT, "sleep: # while endpoints and proxies notice; everything is still answered\n                seconds: 10", "exec: {command: ['true']}", "before endpoints have noticed"),
    Plant(SETTINGS, "HEADRACE_DRAIN_TIMEOUT=30", "HEADRACE_DRAIN_TIMEOUT=300", "is killed after 60 s"),
    Plant(SETTINGS, "HEADRACE_MAX_TIMEOUT_MS=30000", "HEADRACE_MAX_TIMEOUT_MS=60000", "a call may outlive the drain"),
    Plant("components/gateway-api/route.yaml", "request: 30s", "request: 60s", "waits longer than the drain", Variant("prod")),
    Plant("components/gateway-api/route.yaml", "value: /v1/", "value: /", "HTTPRoute headrace: / publishes", Variant("prod")),
    Plant("components/ingress/ingress.yaml", "path: /v1/", "path: /v9/", "/v9/ publishes nothing", Variant("cpu", ("ingress",))),
    Plant("base/SHA256SUMS", "53aa", "53ab", "is not that of the built-in model"),
    Plant(SETTINGS, "HEADRACE_CACHE_DIR=/models", "HEADRACE_CACHE_DIR=/models\n      - HEADRACE_MODEL=bge=/models/hub/bge/abc", "has no sum in SHA256SUMS"),
)  # fmt: skip

BY_SCHEMAS = (
    Plant("base/service.yaml", "apiVersion: v1", "apiVersion: v2", "knows no v2 Service"),
    Plant(DEPLOYMENT, "revisionHistoryLimit: 5", "revisionHistoryLimit: five", "Deployment headrace: 1.30: spec.revisionHistoryLimit"),
    Plant(DEPLOYMENT, "revisionHistoryLimit: 5", "revisionHistory: 5", "Deployment headrace: 1.37: spec: Additional properties"),
    Plant("components/gateway-api/traffic-policy.yaml", "slowStart:", "slowstart:", "BackendTrafficPolicy headrace: Additional", Variant("prod")),
    Plant("components/gateway-api/traffic-policy.yaml", "type: LeastRequest", "type: LeastRequests", "BackendTrafficPolicy headrace: 'LeastRequests'", Variant("prod")),
)  # fmt: skip

BY_MODELS = (
    Plant(SCALED, "pollingInterval:", "pollInterval:", "'\"pollInterval\"' does not exist in type"),
    Plant(SCALED, "behavior: currentReplicasIfHigher", "behavior: keep", "ScaledObject headrace: "),
    Plant(SCALED, "apiVersion: keda.sh/v1alpha1", "apiVersion: keda.sh/v2", "ScaledObject headrace: "),
    Plant("components/gateway-api/route.yaml", "request: 30s", "request: 30 seconds", "must match pattern", Variant("prod")),
    Plant("components/prometheus-rules/rules.yaml", "expr: absent", "exp: absent", "PrometheusRule headrace: ", Variant("prod")),
    Plant("components/podmonitor/pod-monitor.yaml", "interval: 15s", "interval: 15 s", "PodMonitor headrace: ", Variant("prod")),
)  # fmt: skip
