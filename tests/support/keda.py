"""What of KEDA's resources we use, strictly: no schema of theirs comes in a package.

The fields are those of KEDA's documentation, version 2.17: "ScaledObject specification", "Authentication", and the
scalers "Prometheus" and "PostgreSQL" (keda.sh/docs/2.17). KEDA hands `behavior` on to Kubernetes as it is, whose schema
is checked elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Number = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?$")]
Flag = Literal["true", "false"]
API = Literal["keda.sh/v1alpha1"]


class Strict(BaseModel):
    """Unknown fields and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str
    namespace: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Target(Strict):
    name: str
    apiVersion: str = "apps/v1"  # noqa: N815
    kind: str = "Deployment"
    envSourceContainerName: str | None = None  # noqa: N815


class Autoscaler(Strict):
    behavior: dict[str, Any] = {}
    name: str | None = None


class Advanced(Strict):
    horizontalPodAutoscalerConfig: Autoscaler = Autoscaler()  # noqa: N815
    restoreToOriginalReplicaCount: bool = False  # noqa: N815


class Reference(Strict):
    name: str
    kind: Literal["TriggerAuthentication", "ClusterTriggerAuthentication"] = "TriggerAuthentication"


class Trigger(Strict):
    name: str | None = None
    metricType: Literal["AverageValue", "Value"] = "AverageValue"  # noqa: N815
    useCachedMetrics: bool = False  # noqa: N815
    authenticationRef: Reference | None = None  # noqa: N815


class PrometheusMetadata(Strict):
    serverAddress: str  # noqa: N815
    query: str
    threshold: Number
    activationThreshold: Number = "0"  # noqa: N815
    namespace: str | None = None
    customHeaders: str | None = None  # noqa: N815
    ignoreNullValues: Flag = "true"  # noqa: N815
    queryParameters: str | None = None  # noqa: N815
    unsafeSsl: Flag = "false"  # noqa: N815
    authModes: str | None = None  # noqa: N815


class PrometheusTrigger(Trigger):
    type: Literal["prometheus"]
    metadata: PrometheusMetadata


class PostgresMetadata(Strict):
    host: str
    port: Number
    userName: str  # noqa: N815
    dbName: str  # noqa: N815
    sslmode: Literal["disable", "require", "verify-ca", "verify-full"]
    query: str
    targetQueryValue: Number  # noqa: N815
    activationTargetQueryValue: Number = "0"  # noqa: N815
    passwordFromEnv: str | None = None  # noqa: N815


class PostgresTrigger(Trigger):
    type: Literal["postgresql"]
    metadata: PostgresMetadata


class ScaledObjectSpec(Strict):
    scaleTargetRef: Target  # noqa: N815
    pollingInterval: int = Field(default=30, ge=1)  # noqa: N815
    cooldownPeriod: int = Field(default=300, ge=0)  # noqa: N815
    initialCooldownPeriod: int = Field(default=0, ge=0)  # noqa: N815
    minReplicaCount: int = Field(default=0, ge=0)  # noqa: N815
    maxReplicaCount: int = Field(default=100, ge=1)  # noqa: N815
    advanced: Advanced = Advanced()
    triggers: list[Annotated[PrometheusTrigger | PostgresTrigger, Field(discriminator="type")]] = Field(min_length=1)


class ScaledObject(Strict):
    apiVersion: API  # noqa: N815
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


class SecretKey(Strict):
    parameter: str
    name: str
    key: str


class TriggerAuthenticationSpec(Strict):
    secretTargetRef: list[SecretKey]  # noqa: N815


class TriggerAuthentication(Strict):
    apiVersion: API  # noqa: N815
    kind: Literal["TriggerAuthentication"]
    metadata: Metadata
    spec: TriggerAuthenticationSpec


KINDS: dict[str, type[BaseModel]] = {"ScaledObject": ScaledObject, "TriggerAuthentication": TriggerAuthentication}
