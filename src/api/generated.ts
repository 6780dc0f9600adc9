// Generated from crds/personalconnectors.connectors.aitronos.com.yaml by `npm run generate`. Do not edit.

export interface PersonalConnectorSchema {
  spec: PersonalConnectorSpec;
  status?: PersonalConnectorStatus;
}
/**
 * What is wanted. The operator never writes to it.
 */
export interface PersonalConnectorSpec {
  /**
   * Pins the connector's identifier (`id` of the object), for known connectors such as pcon_github. Absent, the operator derives one from the resource's UID; see status.id. Immutable once set.
   */
  id?: string;
  /**
   * Human-readable name of the connector, such as GitHub, ClickUp, Jira or Microsoft Teams.
   */
  name: string;
  /**
   * Who hosts the MCP server: `official` (hosted elsewhere, such as GitHub or Figma), `aitronos_built` (hosted in this cluster by the operator, such as ClickUp, Jira or Teams), `custom` (a user's own). May be changed later; what the operator created follows.
   */
  type: 'official' | 'aitronos_built' | 'custom';
  /**
   * Identifies the kind of connector (`connector_id` of the object): github, clickup, jira, teams, custom_mcp. For aitronos_built it selects the entry of the operator's catalog.
   */
  connectorId: string;
  /**
   * What the connector does and which service it integrates with.
   */
  description?: string;
  /**
   * URL of the connector's icon, http or https.
   */
  iconUrl?: string;
  /**
   * Category for organisation.
   */
  category?: 'productivity' | 'development' | 'communication' | 'design' | 'custom';
  /**
   * Version of the connector, SemVer 2.0.0 without a leading v. For aitronos_built it selects the tag of the catalog's image.
   */
  version?: string;
  /**
   * Availability (`status` of the object): `active`; `deprecated`, works as ever but tells its users to move on, see replacedBy; `maintenance`, paused: not probed, and hosted servers scale to zero.
   */
  lifecycle?: 'active' | 'deprecated' | 'maintenance';
  /**
   * Name or id of the connector that replaces this one, told to users while lifecycle is deprecated.
   */
  replacedBy?: string;
  /**
   * URL of the MCP server. Required for official and custom. For aitronos_built it is optional, and its host names the Service to create and its port the port, as in http://clickup-mcp:8000.
   */
  serverUrl?: string;
  /**
   * How the MCP server speaks: `http` (Streamable HTTP, or HTTP+SSE of 2024-11-05), `websocket` (with the subprotocol mcp, which is outside the specification of MCP; official and custom only), or `stdio` (aitronos_built only: a bridge in the server's Pod serves it over http). Absent, the catalog's entry decides, else http.
   */
  serverType?: 'http' | 'websocket' | 'stdio';
  /**
   * Any further attributes of the connector, kept as they are.
   */
  metadata?: {
    [k: string]: unknown;
  };
  /**
   * User ID of the admin who added this connector. Immutable once set.
   */
  createdBy?: string;
  /**
   * Hands off: while true the operator changes and probes nothing for this connector, and leaves its status as it is.
   */
  suspend?: boolean;
  hosting?: HostingSpec;
  probe?: ProbeSpec;
}
/**
 * How to host the server; for aitronos_built only. Each field is optional when the catalog knows the connectorId, and overrides the catalog's.
 */
export interface HostingSpec {
  /**
   * Container image to run instead of the catalog's. Honoured only if it matches the operator's allowedImages.
   */
  image?: string;
  /**
   * Entry point of the container, instead of the image's.
   */
  command?: string[];
  /**
   * Arguments to the entry point, instead of the catalog's or the image's.
   */
  args?: string[];
  /**
   * Port that the server listens on in its Pod. The Service has the port of serverUrl if given, else this one.
   */
  port?: number;
  /**
   * Path of the MCP endpoint, such as /mcp. The path of serverUrl, if given, comes first.
   */
  path?: string;
  /**
   * Environment variables of the container; they override those of the catalog and of envFrom.
   *
   * Items: One environment variable, by value or from a Secret or ConfigMap of the same namespace.
   */
  env?: {
    /**
     * Name of the variable.
     */
    name: string;
    /**
     * Value of the variable. Do not put secrets here; use valueFrom.
     */
    value?: string;
    /**
     * Where to take the value from.
     */
    valueFrom?: {
      /**
       * A key of a Secret in the connector's namespace.
       */
      secretKeyRef?: {
        /**
         * Name of the object.
         */
        name: string;
        /**
         * Key within the object.
         */
        key: string;
        /**
         * If true, the object or key may be missing, and the variable is then not set.
         */
        optional?: boolean;
      };
      /**
       * A key of a ConfigMap in the connector's namespace.
       */
      configMapKeyRef?: {
        /**
         * Name of the object.
         */
        name: string;
        /**
         * Key within the object.
         */
        key: string;
        /**
         * If true, the object or key may be missing, and the variable is then not set.
         */
        optional?: boolean;
      };
    };
  }[];
  /**
   * Secrets and ConfigMaps of the connector's namespace whose keys become environment variables. For a catalog entry that requires a Secret these replace the default, <connector's name>-credentials.
   *
   * Items: One Secret or ConfigMap.
   */
  envFrom?: {
    /**
     * Put before each key.
     */
    prefix?: string;
    /**
     * A Secret in the connector's namespace.
     */
    secretRef?: {
      /**
       * Name of the object.
       */
      name: string;
      /**
       * If true, the object or key may be missing, and the variable is then not set.
       */
      optional?: boolean;
    };
    /**
     * A ConfigMap in the connector's namespace.
     */
    configMapRef?: {
      /**
       * Name of the object.
       */
      name: string;
      /**
       * If true, the object or key may be missing, and the variable is then not set.
       */
      optional?: boolean;
    };
  }[];
  /**
   * How many Pods to run. Absent, the operator never sets it (Kubernetes starts with 1), so that an autoscaler or a person may.
   */
  replicas?: number;
  resources?: Resources;
  /**
   * Secrets of the connector's namespace with credentials to pull the image.
   *
   * Items: One Secret.
   */
  imagePullSecrets?: {
    /**
     * Name of the object.
     */
    name: string;
  }[];
  /**
   * Labels that a node must have to run the Pods.
   */
  nodeSelector?: {
    [k: string]: string;
  };
  /**
   * Taints of nodes that the Pods tolerate.
   *
   * Items: One toleration, as in a Pod.
   */
  tolerations?: {
    /**
     * Taint key that it applies to; empty with operator Exists matches all.
     */
    key?: string;
    /**
     * Exists or Equal (the default).
     */
    operator?: 'Exists' | 'Equal';
    /**
     * Taint value that it matches.
     */
    value?: string;
    /**
     * Taint effect that it matches; absent matches all.
     */
    effect?: 'NoSchedule' | 'PreferNoSchedule' | 'NoExecute';
    /**
     * How long NoExecute is tolerated, in seconds.
     */
    tolerationSeconds?: number;
  }[];
  /**
   * Who may connect to the server besides the connector's own namespace and the operator, as peers of a NetworkPolicy.
   *
   * Items: One peer, as in a NetworkPolicy.
   */
  allowFrom?: {
    /**
     * Selects namespaces by their labels; empty selects all.
     */
    namespaceSelector?: {
      /**
       * Labels that must all be there with these values.
       */
      matchLabels?: {
        [k: string]: string;
      };
      /**
       * Label requirements that must all hold.
       *
       * Items: One label requirement.
       */
      matchExpressions?: {
        /**
         * Label key.
         */
        key: string;
        /**
         * How the label relates to the values.
         */
        operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';
        /**
         * Label values, for In and NotIn.
         */
        values?: string[];
      }[];
    };
    /**
     * Selects Pods by their labels, in the connector's namespace or in the selected namespaces.
     */
    podSelector?: {
      /**
       * Labels that must all be there with these values.
       */
      matchLabels?: {
        [k: string]: string;
      };
      /**
       * Label requirements that must all hold.
       *
       * Items: One label requirement.
       */
      matchExpressions?: {
        /**
         * Label key.
         */
        key: string;
        /**
         * How the label relates to the values.
         */
        operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';
        /**
         * Label values, for In and NotIn.
         */
        values?: string[];
      }[];
    };
    /**
     * Selects a range of IP addresses.
     */
    ipBlock?: {
      /**
       * The range, such as 192.0.2.0/24.
       */
      cidr: string;
      /**
       * Ranges within it that are left out.
       */
      except?: string[];
    };
  }[];
}
/**
 * CPU and memory requests and limits of the server's container; they replace the catalog's.
 */
export interface Resources {
  /**
   * Quantities by resource name, such as cpu or memory.
   */
  requests?: {
    [k: string]: number | string;
  };
  /**
   * Quantities by resource name, such as cpu or memory.
   */
  limits?: {
    [k: string]: number | string;
  };
}
/**
 * How the operator checks the server over MCP.
 */
export interface ProbeSpec {
  /**
   * Whether to probe at all. If false, Ready says ProbeDisabled.
   */
  enabled?: boolean;
  /**
   * Time between two probes, such as 5m; from 10s to 24h. Absent, the operator's default.
   */
  interval?: string;
  /**
   * Deadline of one whole probe, such as 10s; from 1s to 60s. Absent, the operator's default.
   */
  timeout?: string;
  /**
   * Failures in a row before a connector that was healthy is reported as failed. Absent, 3.
   */
  failureThreshold?: number;
  /**
   * Successes in a row before a connector that had failed is reported as healthy. Absent, 1.
   */
  successThreshold?: number;
  /**
   * Hash of the tool list that was approved (copy it from status.server.toolsHash). When the server offers other tools, Verified is False with reason ToolsChanged; when it does not list them, Verified is Unknown.
   */
  approvedToolsHash?: string;
  /**
   * HTTP headers to send with each probe, to the origin of serverUrl only; values come from Secrets of the connector's namespace. Needs an operator that may read Secrets.
   *
   * Items: One header.
   */
  headers?: {
    /**
     * Name of the header, such as Authorization.
     */
    name: string;
    /**
     * Where to take the value from.
     */
    valueFrom: {
      /**
       * A key of a Secret in the connector's namespace.
       */
      secretKeyRef: {
        /**
         * Name of the object.
         */
        name: string;
        /**
         * Key within the object.
         */
        key: string;
      };
    };
  }[];
  caBundle?: CaBundle;
}
/**
 * Where to find the PEM certificates of the authorities that vouch for the server, beside the well-known ones. For a Secret it needs an operator that may read Secrets.
 */
export interface CaBundle {
  /**
   * A key of a Secret in the connector's namespace.
   */
  secretKeyRef?: {
    /**
     * Name of the object.
     */
    name: string;
    /**
     * Key within the object.
     */
    key: string;
  };
  /**
   * A key of a ConfigMap in the connector's namespace.
   */
  configMapKeyRef?: {
    /**
     * Name of the object.
     */
    name: string;
    /**
     * Key within the object.
     */
    key: string;
  };
}
/**
 * What the operator found. Only `conditions` of type Ready need be read to know whether the connector can be used.
 */
export interface PersonalConnectorStatus {
  /**
   * The metadata.generation that this status speaks of; -1 before the operator saw the connector.
   */
  observedGeneration?: number;
  /**
   * The connector's identifier, spec.id or one derived from the resource's UID.
   */
  id?: string;
  /**
   * The effective URL of the MCP server.
   */
  serverUrl?: string;
  /**
   * What clients speak to the server.
   */
  serverType?: 'http' | 'websocket';
  /**
   * When the current generation was first seen.
   */
  updatedAt?: string;
  /**
   * The state of the connector by aspect. Ready sums them up.
   */
  conditions?: Condition[];
  /**
   * What runs in the cluster for an aitronos_built connector.
   */
  hosting?: {
    /**
     * Name of the Deployment.
     */
    deployment?: string;
    /**
     * Name of the Service.
     */
    service?: string;
    /**
     * The image that the Deployment runs.
     */
    image?: string;
    /**
     * Pods wanted.
     */
    replicas?: number;
    /**
     * Pods that are ready.
     */
    readyReplicas?: number;
  };
  /**
   * What the MCP server says of itself; unverified.
   */
  server?: {
    /**
     * Name of the server's implementation.
     */
    name?: string;
    /**
     * Its name for people.
     */
    title?: string;
    /**
     * Version of the server's implementation.
     */
    version?: string;
    /**
     * The MCP revision that was negotiated, such as 2025-11-25.
     */
    protocolVersion?: string;
    /**
     * Names of the capabilities that the server offers.
     */
    capabilities?: string[];
    /**
     * Characters of the instructions that the server gives to models; what they say is not kept.
     */
    instructionsLength?: number;
    /**
     * How many tools the server offers.
     */
    toolCount?: number;
    /**
     * Hash of the tools' names, descriptions and input schemas; it changes when they do.
     */
    toolsHash?: string;
    /**
     * Names of the tools, at most 128.
     */
    tools?: string[];
  };
  /**
   * What the server says of how to authorize (RFC 9728); unverified.
   */
  authorization?: {
    /**
     * URL of the protected resource metadata.
     */
    resourceMetadataUrl?: string;
    /**
     * Issuers that grant access.
     */
    authorizationServers?: string[];
    /**
     * Scopes that the server names.
     */
    scopes?: string[];
  };
  /**
   * The value of the annotation connectors.aitronos.com/recheck that was last acted on.
   */
  lastHandledRecheck?: string;
}
/**
 * One aspect of the state.
 */
export interface Condition {
  /**
   * The aspect, such as Ready, Accepted, Deployed, Reachable, Verified or Authorized.
   */
  type: string;
  /**
   * True, False or Unknown.
   */
  status: 'True' | 'False' | 'Unknown';
  /**
   * The metadata.generation that this condition speaks of.
   */
  observedGeneration?: number;
  /**
   * When the status last changed.
   */
  lastTransitionTime: string;
  /**
   * Why, in one word for programs.
   */
  reason: string;
  /**
   * Why and what to do, for people.
   */
  message: string;
}
