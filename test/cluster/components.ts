// What the Kubernetes components of a local cluster are given: keys, tokens, kubeconfigs and flags.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { dump } from 'js-yaml';
import { createAuthority, keyPem } from './certificates.ts';

/** The Service network; the API server's own Service has its first address. */
export const SERVICE_CIDR = '10.96.0.0/16';
const API_SERVICE_IP = '10.96.0.1';

export const NODE_NAME = 'node';

/** Who speaks to the API server, with the names that RBAC's bootstrap policy knows. */
export const users = {
  admin: { user: 'admin', group: 'system:masters' },
  kwok: { user: 'kwok', group: 'system:masters' },
  'controller-manager': { user: 'system:kube-controller-manager', group: '' },
  scheduler: { user: 'system:kube-scheduler', group: '' },
  kubelet: { user: `system:node:${NODE_NAME}`, group: 'system:nodes' },
  proxy: { user: 'system:kube-proxy', group: '' },
  coredns: { user: 'system:coredns', group: '' },
};

export type User = keyof typeof users;
const userNames = Object.keys(users) as User[];

export interface Files {
  dir: string;
  /** PEM. */
  ca: string;
  tokens: Record<User, string>;
  auditLog: string;
}

/** Writes keys, certificates, tokens and the audit policy into `dir`; `hosts` are the API server's names beside the usual. */
export function writeFiles(dir: string, hosts: readonly string[]): Files {
  const write = (name: string, content: string) => writeFileSync(join(dir, name), content, { mode: 0o600 });
  const authority = createAuthority('personal-connector-operator local cluster');
  write('ca.crt', authority.certificate);
  const server = authority.issue({
    commonName: 'kube-apiserver',
    names: [
      'localhost',
      '127.0.0.1',
      API_SERVICE_IP,
      ...['', '.default', '.default.svc', '.default.svc.cluster.local'].map(rest => `kubernetes${rest}`),
      ...hosts,
    ],
  });
  write('apiserver.crt', server.certificate);
  write('apiserver.key', server.key);
  const kubeletClient = authority.issue({ commonName: 'kube-apiserver', organization: 'system:masters' });
  write('kubelet-client.crt', kubeletClient.certificate);
  write('kubelet-client.key', kubeletClient.key);
  const serviceAccounts = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  write('service-accounts.key', keyPem(serviceAccounts.privateKey));
  write('service-accounts.pub', keyPem(serviceAccounts.publicKey));

  const tokens = Object.fromEntries(
    userNames.map(name => [name, randomBytes(24).toString('base64url')]),
  ) as Files['tokens'];
  write(
    'tokens.csv',
    userNames.map(name => `${tokens[name]},${users[name].user},${name},"${users[name].group}"\n`).join(''),
  );
  write('audit-policy.yaml', dump(auditPolicy));
  mkdirSync(join(dir, 'log'), { recursive: true });
  return { dir, ca: authority.certificate, tokens, auditLog: join(dir, 'log', 'audit.log') };
}

/** Where a user's kubeconfig is. */
export function kubeconfigPath({ dir }: Files, user: User): string {
  return join(dir, user === 'admin' ? 'kubeconfig' : `${user}.kubeconfig`);
}

/** Writes a user's kubeconfig for the API server at `server`, readable by its owner only, and gives its path. */
export function writeKubeconfig(files: Files, user: User, server: string, path = kubeconfigPath(files, user)): string {
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'local', cluster: { server, 'certificate-authority-data': caData(files) } }],
    users: [{ name: user, user: { token: files.tokens[user] } }],
    contexts: [{ name: 'local', context: { cluster: 'local', user } }],
    'current-context': 'local',
  };
  writeFileSync(path, dump(config), { mode: 0o600 });
  return path;
}

export function caData(files: Files): string {
  return Buffer.from(files.ca).toString('base64');
}

/** One line for each finished request: who, verb, object, answer. Leases, Events and health checks are left out. */
const auditPolicy = {
  apiVersion: 'audit.k8s.io/v1',
  kind: 'Policy',
  omitStages: ['RequestReceived', 'ResponseStarted', 'Panic'],
  rules: [
    {
      level: 'None',
      resources: [{ group: 'coordination.k8s.io', resources: ['leases'] }],
      verbs: ['get', 'list', 'watch'],
    },
    { level: 'None', nonResourceURLs: ['/healthz*', '/livez*', '/readyz*', '/version', '/metrics', '/openapi*'] },
    { level: 'Metadata' },
  ],
};

/** etcd speaks on a socket in the cluster's directory: no port to collide, and no other user of the machine can ask it. */
function etcdUrl(dir: string, name: 'client' | 'peer'): string {
  return `unix://${join(dir, `etcd-${name}.sock`)}`;
}

export function etcdFlags({ dir }: Files): string[] {
  const peer = etcdUrl(dir, 'peer');
  return [
    '--name=local',
    `--data-dir=${join(dir, 'etcd')}`,
    `--listen-client-urls=${etcdUrl(dir, 'client')}`,
    `--advertise-client-urls=${etcdUrl(dir, 'client')}`,
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=local=${peer}`,
    // Its data dies with the cluster, so a crash that loses some is no loss.
    '--unsafe-no-fsync',
    `--quota-backend-bytes=${4 * 1024 ** 3}`,
    '--log-level=warn',
  ];
}

export interface ApiServerOptions {
  bindAddress: string;
  port: number;
  /** The address that the Service `kubernetes` leads to; absent: nobody serves it. */
  advertise?: string;
}

export function apiServerFlags({ dir, auditLog }: Files, { bindAddress, port, advertise }: ApiServerOptions): string[] {
  const file = (name: string) => join(dir, name);
  return [
    `--etcd-servers=${etcdUrl(dir, 'client')}`,
    `--bind-address=${bindAddress}`,
    `--secure-port=${port}`,
    // Loopback addresses are not allowed in Endpoints.
    ...(advertise ? [`--advertise-address=${advertise}`] : ['--endpoint-reconciler-type=none']),
    `--service-cluster-ip-range=${SERVICE_CIDR}`,
    `--tls-cert-file=${file('apiserver.crt')}`,
    `--tls-private-key-file=${file('apiserver.key')}`,
    `--client-ca-file=${file('ca.crt')}`,
    `--token-auth-file=${file('tokens.csv')}`,
    '--authorization-mode=Node,RBAC',
    '--enable-admission-plugins=NodeRestriction',
    '--service-account-issuer=https://kubernetes.default.svc',
    `--service-account-key-file=${file('service-accounts.pub')}`,
    `--service-account-signing-key-file=${file('service-accounts.key')}`,
    `--kubelet-client-certificate=${file('kubelet-client.crt')}`,
    `--kubelet-client-key=${file('kubelet-client.key')}`,
    '--kubelet-preferred-address-types=InternalIP',
    '--allow-privileged=true',
    `--audit-policy-file=${file('audit-policy.yaml')}`,
    `--audit-log-path=${auditLog}`,
    // Written before the answer is sent: who has the answer may count on the line.
    '--audit-log-mode=blocking',
  ];
}

export function controllerManagerFlags(files: Files): string[] {
  return [
    `--kubeconfig=${kubeconfigPath(files, 'controller-manager')}`,
    '--leader-elect=false',
    '--secure-port=0',
    '--use-service-account-credentials=true',
    `--root-ca-file=${join(files.dir, 'ca.crt')}`,
    `--service-account-private-key-file=${join(files.dir, 'service-accounts.key')}`,
    // Its defaults (20 and 30) make it the bottleneck of every test that creates hundreds of objects.
    '--kube-api-qps=1000',
    '--kube-api-burst=2000',
  ];
}

export function schedulerFlags(files: Files): string[] {
  return [
    `--kubeconfig=${kubeconfigPath(files, 'scheduler')}`,
    '--leader-elect=false',
    '--secure-port=0',
    '--kube-api-qps=1000',
    '--kube-api-burst=2000',
  ];
}

export function kwokFlags(files: Files, stages: string): string[] {
  return [
    `--kubeconfig=${kubeconfigPath(files, 'kwok')}`,
    `--config=${stages}`,
    '--manage-all-nodes=true',
    '--node-lease-duration-seconds=40',
    '--server-address=',
  ];
}
