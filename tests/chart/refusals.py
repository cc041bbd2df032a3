"""Values that cannot be: each on top of a scenario that can, with what has to be said of it."""

from __future__ import annotations

from typing import Any

Case = tuple[str, dict[str, Any], str]


def redis(**more: Any) -> dict[str, Any]:
    """Changes of `ledger.redis`."""
    return {"ledger": {"redis": more}}


# What templates refuse, with what to do.
REFUSED: list[Case] = [
    ("embedded", {"publicUrl": ""}, "- publicUrl: it is missing: write where"),
    ("tls", {"publicUrl": "http://dayfly.example.org"}, "- publicUrl: it is not https"),
    (
        "embedded",
        {"dangerPlaintext": False},
        "- tls: Dayfly would speak plain HTTP to other pods: set `tls.existingSecret`",
    ),
    ("tls", {"dangerPlaintext": True}, "- dangerPlaintext: Dayfly serves TLS"),
    ("embedded", {"tls": {"clientCertificates": "optional"}}, "- tls.clientCertificates: without TLS"),
    ("listeners", {"tls": {"existingSecret": "mine"}}, "- tls.existingSecret: cert-manager makes one"),
    ("listeners", {"tls": {"certManager": {"issuer": {"name": ""}}}}, "- tls.certManager.issuer.name: it is missing"),
    (
        "listeners",
        {"tls": {"certManager": {"duration": "1h", "renewBefore": "60m"}}},
        "- tls.certManager.renewBefore: it is not less than `duration`",
    ),
    (
        "embedded",
        {"replicaCount": 2},
        "- ledger.kind: several replicas cannot share the embedded ledger, which is one file: set `ledger.kind: redis`",
    ),
    (
        "embedded",
        {"autoscaling": {"enabled": True}},
        "- ledger.kind: several replicas cannot share the embedded ledger",
    ),
    (
        "embedded",
        {"replicaCount": 2},
        "- signingKeys.kind: replicas with keys of their own would refuse each other's tokens",
    ),
    (
        "embedded",
        redis(urls=["rediss://redis.example.org"]),
        "- ledger.redis: it has addresses and the ledger is embedded",
    ),
    ("tls", {"replicaCount": 2}, "- persistence.existingClaim: each replica has a journal of its own"),
    ("redis-sentinel", redis(urls=[]), "- ledger.redis.urls: it is empty"),
    (
        "redis-sentinel",
        redis(urls=["rediss://u:pw@redis.example.org"]),
        "- ledger.redis.urls: one has a user or a password",
    ),
    (
        "redis-sentinel",
        redis(urls=["redis://redis.example.org"]),
        "- ledger.redis.urls: redis://redis.example.org is plain text",
    ),
    ("redis-sentinel", redis(master=""), "- ledger.redis.master: it is missing"),
    ("redis-sentinel", redis(mode="single"), "- ledger.redis.master: only sentinels know it"),
    (
        "redis-sentinel",
        redis(existingSecret=""),
        "- ledger.redis.existingSecret: it is missing: name the Secret with the password",
    ),
    ("redis-sentinel", redis(existingSecret=""), "- ledger.redis.username: a user has a password"),
    (
        "redis-sentinel",
        redis(dangerNoPassword=True),
        "- ledger.redis.dangerNoPassword: `ledger.redis.existingSecret` has a password",
    ),
    ("redis-sentinel", {"signingKeys": {"kind": "own"}}, "- signingKeys.kind: replicas with keys of their own"),
    (
        "redis-sentinel",
        {"signingKeys": {"storageClass": ""}},
        "- signingKeys.storageClass: it is missing: name a class that offers ReadWriteMany",
    ),
    ("redis-sentinel", {"signingKeys": {"kind": "secret"}}, "- signingKeys.existingSecret: it is missing"),
    ("redis-sentinel", {"signingKeys": {"existingSecret": "a"}}, "- signingKeys.existingSecret: it is used with"),
    (
        "redis-cluster-git",
        {"signingKeys": {"existingClaim": "a"}},
        "- signingKeys.existingClaim, signingKeys.storageClass: they are used with",
    ),
    (
        "redis-cluster-git",
        {"config": {"tokens": {"rotate_every": "30d"}}},
        "- config.tokens.rotate_every: keys of a Secret",
    ),
    ("embedded", {"thisCluster": {"enabled": False}}, "- config.identity: nobody could prove anything"),
    (
        "providers",
        {"thisCluster": {"tokenReview": {"enabled": True}}},
        "- thisCluster.tokenReview: the cluster's tokens are not taken",
    ),
    (
        "embedded",
        {"config": {"server": {"listen": "0.0.0.0:1"}}},
        "- config.server.listen: the chart writes it: use `service.port`",
    ),
    (
        "embedded",
        {"config": {"server": {"public_url": "https://a"}}},
        "- config.server.public_url: the chart writes it: use `publicUrl`",
    ),
    (
        "embedded",
        {"config": {"server": {"danger_plaintext_listen": True}}},
        "- config.server.danger_plaintext_listen: the chart writes it",
    ),
    ("embedded", {"config": {"server": {"tls": {}}}}, "- config.server.tls: the chart writes it"),
    ("embedded", {"config": {"ledger": {"kind": "redis"}}}, "- config.ledger.kind: the chart writes it"),
    (
        "embedded",
        {"config": {"journal": {"dir": "/tmp"}}},
        "- config.journal.dir: the chart writes it: use `persistence`",
    ),
    (
        "embedded",
        {"config": {"tokens": {"keys": "/tmp"}}},
        "- config.tokens.keys: the chart writes it: use `signingKeys`",
    ),
    ("embedded", {"config": {"policy": {"dirs": ["/tmp"]}}}, "- config.policy.dirs: the chart writes it: use `rules`"),
    (
        "embedded",
        {"config": {"provider": [{"postgres": {"password_file": "/run/secrets/db/pw"}}]}},
        "- config.provider[0].postgres.password_file: nothing mounts /run/secrets/db/pw: add `secretMounts.db.existingSecret`",
    ),
    (
        "embedded",
        {"config": {"signals": {"streams": [{"token_file": "/run/secrets/idp/token"}]}}},
        "- config.signals.streams[0].token_file: nothing mounts /run/secrets/idp/token",
    ),
    (
        "providers",
        {"secretMounts": {"redis": {"existingSecret": "a"}}},
        "- secretMounts.redis: the chart mounts something there",
    ),
    (
        "embedded",
        {"config": {"provider": [{"name": "a", "kind": "postgres", "postgres": {"password": "hunter2"}}]}},
        "- config.provider[0].postgres.password: secrets are not for values",
    ),
    (
        "embedded",
        {"config": {"telemetry": {"traces": {"key": "-----BEGIN PRIVATE KEY-----"}}}},
        "- config.telemetry.traces.key: a private key is not for values",
    ),
    (
        "embedded",
        {"rules": {"agents": {"existingConfigMap": "a"}}},
        "- rules.agents: it has files and names a ConfigMap",
    ),
    (
        "embedded",
        {"rules": {"git": {"enabled": True, "url": "https://git.example.org/a"}}},
        "- rules.tools: all three come from Git",
    ),
    ("redis-cluster-git", {"rules": {"git": {"url": ""}}}, "- rules.git.url: it is missing"),
    (
        "redis-cluster-git",
        {"rules": {"git": {"url": "http://git.example.org/a"}}},
        "- rules.git.url: whoever is on the way could change",
    ),
    (
        "redis-cluster-git",
        {"rules": {"git": {"url": "https://u:pw@git.example.org/a"}}},
        "- rules.git.url: it has a user or a password",
    ),
    ("redis-cluster-git", {"rules": {"git": {"existingSecret": ""}}}, "- rules.git.existingSecret: it is missing"),
    ("redis-cluster-git", {"autoscaling": {"minReplicas": 10}}, "- autoscaling.minReplicas: it is more than"),
    (
        "redis-cluster-git",
        {"podDisruptionBudget": {"maxUnavailable": 1}},
        "- podDisruptionBudget.minAvailable: `maxUnavailable` is set too",
    ),
    ("redis-cluster-git", {"httpRoute": {"enabled": True}}, "- httpRoute.parentRefs: it is empty"),
    ("redis-sentinel", {"ingress": {"enabled": True}}, "- ingress.enabled: `httpRoute.enabled` is set too"),
    (
        "embedded",
        {"terminationGracePeriodSeconds": 29},
        "- terminationGracePeriodSeconds: Dayfly would be killed while requests finish: it takes 30 at least",
    ),
    (
        "embedded",
        {"terminationGracePeriodSeconds": 49, "config": {"server": {"stop_delay": 25}}},
        "it takes 50 at least",
    ),
    (
        "embedded",
        {"terminationGracePeriodSeconds": 30, "config": {"server": {"drain_timeout": "1m30s"}}},
        "it takes 100 at least",
    ),
    (
        "listeners",
        {"listeners": {"operators": {"port": 8441}}},
        "- listeners.operators.port: another listener has 8441",
    ),
    ("listeners", {"listeners": {"tools": {"port": 8440}}}, "- listeners.tools.port: another listener has 8440"),
    (
        "listeners",
        {"listeners": {"operators": {"enabled": False}}},
        "- listeners.tools.enabled: an Ingress cannot tell the feed, which is for tools, from kill orders",
    ),
    (
        "listeners",
        {"publicUrl": "https://example.org/dayfly"},
        "- publicUrl: it has the path /dayfly, which an Ingress cannot take away",
    ),
    (
        "tls",
        {"metrics": {"serviceMonitor": {"tlsConfig": None}}},
        "- metrics.serviceMonitor.tlsConfig: Prometheus asks pods by their addresses",
    ),
    (
        "tls",
        {"metrics": {"serviceMonitor": {"tlsConfig": {"serverName": ""}}}},
        "- metrics.serviceMonitor.tlsConfig: Prometheus asks pods by their addresses",
    ),
    (
        "redis-cluster-git",
        {"resources": {"requests": {"cpu": None}}},
        "- resources.requests.cpu: it is missing",
    ),
    ("redis-cluster-git", {"resources": {"requests": None}}, "- resources.requests.cpu: it is missing"),
    (
        "redis-sentinel",
        {"podDisruptionBudget": {"maxUnavailable": None}},
        "- podDisruptionBudget.maxUnavailable: neither it nor `minAvailable` says anything",
    ),
    (
        "redis-sentinel",
        {"podDisruptionBudget": {"maxUnavailable": 0}},
        "- podDisruptionBudget.maxUnavailable: with 0 no node could be drained",
    ),
    (
        "redis-sentinel",
        {"podDisruptionBudget": {"maxUnavailable": "0%"}},
        "- podDisruptionBudget.maxUnavailable: with 0% no node could be drained",
    ),
    (
        "redis-sentinel",
        {"podDisruptionBudget": {"maxUnavailable": None, "minAvailable": 3}},
        "- podDisruptionBudget.minAvailable: 3 of 3 lets none go",
    ),
    # Shares are rounded up: 67% of 3 are 3.
    (
        "redis-sentinel",
        {"podDisruptionBudget": {"maxUnavailable": None, "minAvailable": "67%"}},
        "- podDisruptionBudget.minAvailable: 67% are all of 3",
    ),
    (
        "redis-cluster-git",
        {"podDisruptionBudget": {"minAvailable": 3}},
        "- podDisruptionBudget.minAvailable: 3 of 3 lets none go",
    ),
]

# What the schema refuses, with where it is.
INVALID: list[Case] = [
    ("embedded", {"replicaCount": 0}, "/replicaCount"),
    ("embedded", {"replicaCount": "3"}, "/replicaCount"),
    ("embedded", {"replicas": 3}, "'replicas'"),
    ("embedded", {"publicURL": "https://a"}, "'publicURL'"),
    ("embedded", {"publicUrl": "https://dayfly.example.org/"}, "/publicUrl"),
    ("embedded", {"publicUrl": "dayfly.example.org"}, "/publicUrl"),
    ("embedded", {"publicUrl": "https://u@dayfly.example.org"}, "/publicUrl"),
    ("embedded", {"image": {"digest": "sha256:12"}}, "/image/digest"),
    ("embedded", {"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ("embedded", {"image": {"name": "dayfly"}}, "/image"),
    ("embedded", {"ledger": {"kind": "postgres"}}, "/ledger/kind"),
    ("embedded", redis(url="rediss://a"), "/ledger/redis"),
    ("embedded", redis(urls=["https://a"]), "/ledger/redis/urls/0"),
    ("embedded", redis(shards=0), "/ledger/redis/shards"),
    ("embedded", redis(shards=4097), "/ledger/redis/shards"),
    ("embedded", redis(prefix="a b"), "/ledger/redis/prefix"),
    ("embedded", redis(password="hunter2"), "/ledger/redis"),
    ("embedded", {"persistence": {"enabled": False}}, "/persistence"),
    ("embedded", {"persistence": {"size": "ten"}}, "/persistence/size"),
    ("embedded", {"persistence": {"accessModes": ["ReadWriteMany"]}}, "/persistence/accessModes/0"),
    ("embedded", {"persistence": {"retention": {"whenScaled": "Recycle"}}}, "/persistence/retention/whenScaled"),
    ("embedded", {"signingKeys": {"kind": "file"}}, "/signingKeys/kind"),
    ("embedded", {"tls": {"cert": "a"}}, "/tls"),
    ("embedded", {"dangerPlaintext": "yes"}, "/dangerPlaintext"),
    ("embedded", {"listeners": {"tools": {"port": 70000}}}, "/listeners/tools/port"),
    ("embedded", {"thisCluster": {"url": "http://kubernetes"}}, "/thisCluster/url"),
    ("embedded", {"thisCluster": {"tokenReview": {"remember": "soon"}}}, "/thisCluster/tokenReview/remember"),
    ("embedded", {"config": {"servr": {}}}, "/config"),
    ("embedded", {"config": {"provider": {}}}, "/config/provider"),
    ("embedded", {"secretMounts": {"a": {"secret": "b"}}}, "/secretMounts/a"),
    ("embedded", {"secretMounts": {"../a": {"existingSecret": "b"}}}, "/secretMounts"),
    ("embedded", {"rules": {"agents": {"files": {"a.yaml": "a"}}}}, "/rules/agents/files"),
    ("embedded", {"rules": {"policies": {"files": {"a.toml": "a"}}}}, "/rules/policies/files"),
    ("embedded", {"rules": {"git": {"path": "../other"}}}, "/rules/git/path"),
    ("embedded", {"rules": {"git": {"period": "often"}}}, "/rules/git/period"),
    ("embedded", {"service": {"port": 0}}, "/service/port"),
    ("embedded", {"service": {"listen": "127.0.0.1"}}, "/service/listen"),
    ("embedded", {"service": {"type": "ExternalName"}}, "/service/type"),
    ("embedded", {"networkPolicy": {"enabled": None, "allow": []}}, "/networkPolicy"),
    ("embedded", {"podDisruptionBudget": {"maxUnavailable": "half"}}, "/podDisruptionBudget/maxUnavailable"),
    ("embedded", {"autoscaling": {"targetCPU": 101}}, "/autoscaling/targetCPU"),
    ("embedded", {"metrics": {"serviceMonitor": {"insecureSkipVerify": True}}}, "/metrics/serviceMonitor"),
    ("embedded", {"probes": {"liveness": {"enabled": False}}}, "/probes/liveness"),
    ("embedded", {"preStopSleepSeconds": 5}, "'preStopSleepSeconds'"),
    ("embedded", {"tls": {"certManager": {"issuer": "internal"}}}, "/tls/certManager/issuer"),
    ("embedded", {"tls": {"certManager": {"dnsNames": ["https://a"]}}}, "/tls/certManager/dnsNames/0"),
    ("embedded", {"tls": {"certManager": {"duration": "90d"}}}, "/tls/certManager/duration"),
    ("embedded", {"extraEnv": [{"value": "a"}]}, "/extraEnv/0"),
]

# What is warned of.
UNSAFE: list[Case] = [
    (
        "tls",
        {"image": {"repository": "ghcr.io/a/dayfly", "tag": "latest"}},
        "- image.tag: `latest` is something else tomorrow",
    ),
    ("embedded", {}, "- image.repository: it is a placeholder"),
    ("embedded", {}, "- dangerPlaintext: credentials pass between pods in plain text"),
    ("embedded", {}, "- replicaCount: one."),
    ("embedded", {}, "- thisCluster.tokenReview: it is off"),
    ("embedded", {}, "- listeners.operators: it is off, so /metrics is where agents are"),
    ("embedded", {}, "- metrics: without `serviceMonitor` and `prometheusRule`"),
    ("redis-sentinel", {}, "- metrics.runbooks: it is a placeholder"),
    ("tls", {}, "- rules: there are no agents, no tools or no policies"),
    (
        "redis-sentinel",
        redis(urls=["redis://a:1"], dangerPlaintext=True),
        "- ledger.redis.dangerPlaintext: whoever reads",
    ),
    (
        "redis-sentinel",
        redis(existingSecret="", username="", dangerNoPassword=True),
        "- ledger.redis.dangerNoPassword: every pod",
    ),
    ("providers", {}, "- ledger.redis.username: it is the default user"),
    ("redis-cluster-git", {}, "- signingKeys.kind: keys of a Secret are turned by nobody but you"),
    ("embedded", {"networkPolicy": {"enabled": False}}, "- networkPolicy.enabled: it is off"),
    ("embedded", {"service": {"type": "LoadBalancer"}}, "- service.type: `LoadBalancer`"),
    ("redis-sentinel", {"podDisruptionBudget": {"enabled": False}}, "- podDisruptionBudget.enabled: it is off"),
    (
        "embedded",
        {"persistence": {"retention": {"whenDeleted": "Delete"}}},
        "- persistence.retention: journals are deleted",
    ),
    (
        "embedded",
        {"securityContext": {"readOnlyRootFilesystem": False}},
        "- securityContext.readOnlyRootFilesystem: it is not true",
    ),
    (
        "embedded",
        {"securityContext": {"allowPrivilegeEscalation": True}},
        "- securityContext.allowPrivilegeEscalation: it is not false",
    ),
    (
        "listeners",
        {"networkPolicy": {"operatorsFrom": [{"namespaceSelector": {}}]}},
        "- networkPolicy.operatorsFrom: it is every pod",
    ),
    (
        "redis-sentinel",
        {
            "dangerPlaintext": False,
            "tls": {"existingSecret": "dayfly-tls"},
            "metrics": {"serviceMonitor": {"tlsConfig": {"serverName": "dayfly.example.org"}}},
        },
        "- httpRoute.enabled: Dayfly serves TLS, and a gateway speaks plain HTTP to it",
    ),
    ("embedded", {"securityContext": {"privileged": True}}, "- securityContext.privileged: it is true"),
    (
        "embedded",
        {"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}},
        "- securityContext.capabilities.add: Dayfly needs none",
    ),
    (
        "embedded",
        {"securityContext": {"capabilities": {"drop": []}}},
        "- securityContext.capabilities.drop: it has not `ALL`",
    ),
    ("embedded", {"securityContext": {"capabilities": None}}, "- securityContext.capabilities.drop: it has not `ALL`"),
    ("embedded", {"securityContext": {"runAsUser": 0}}, "- securityContext.runAsUser: it is root"),
    ("embedded", {"podSecurityContext": {"runAsUser": 0}}, "- podSecurityContext.runAsUser: it is root"),
    (
        "embedded",
        {"securityContext": {"runAsNonRoot": False}},
        "- securityContext.runAsNonRoot: it is false, whatever",
    ),
    (
        "embedded",
        {"podSecurityContext": {"seccompProfile": None}},
        "- podSecurityContext.seccompProfile: there is none",
    ),
    (
        "embedded",
        {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
        "- securityContext.seccompProfile: it is `Unconfined`",
    ),
    ("embedded", {"podSecurityContext": {"runAsNonRoot": False}}, "- podSecurityContext.runAsNonRoot: it is not true"),
    (
        "embedded",
        {"podSecurityContext": {"fsGroupChangePolicy": "Always"}},
        "- podSecurityContext.fsGroupChangePolicy: it is not `OnRootMismatch`",
    ),
]
