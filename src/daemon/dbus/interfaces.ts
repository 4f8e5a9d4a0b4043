/**
 * The D-Bus interfaces org.xnbd1.*: which members they have, and how a status becomes their properties
 * (src/control/status.ts).
 */
import dbus from 'dbus-next';
import { formatCap } from '../../config/caps.ts';
import { busMethods } from '../../control/methods.ts';
import { type ExportStatus, statusRows } from '../../control/status.ts';
import type { LimitsNow } from '../limits/limits.ts';

export const rootPath = '/org/xnbd1';

/** Escapes as systemd does for its units: what is neither letter nor digit becomes _xx. */
function pathElement(name: string): string {
  return [...Buffer.from(name)]
    .map((byte) => {
      const character = String.fromCharCode(byte);
      return /[A-Za-z0-9]/.test(character) ? character : `_${byte.toString(16).padStart(2, '0')}`;
    })
    .join('');
}

export function exportPath(name: string): string {
  return `${rootPath}/export/${pathElement(name)}`;
}

/** As libvirt names its domains: the dashes become underscores. */
export function relocationPath(uuid: string): string {
  return `${rootPath}/relocation/${uuid.replaceAll('-', '_')}`;
}

export interface RelocationStatus {
  /** Of this one relocation, not of the domain. */
  uuid: string;
  domain: string;
  domainUuid: string;
  /** `preparing` until the takeover, `relocating` after it, then `completed` or `failed`. */
  state: 'preparing' | 'relocating' | 'completed' | 'failed';
  /** Names of the exports. */
  disks: readonly string[];
  sizeBytes: number;
  presentBytes: number;
  /** Why it failed, or null. */
  reason: string | null;
}

/** One disk of a completed relocation; `a(stttd)` on the bus. */
export interface CompletedDisk {
  name: string;
  onDemandBytes: number;
  backgroundBytes: number;
  skippedBytes: number;
  secondsSinceTakeover: number;
}

export type Properties = Readonly<Record<string, unknown>>;

/** An interface whose properties are plain fields, under their D-Bus names. */
export class PropertyInterface extends dbus.interface.Interface {}

function readable(
  signatures: Readonly<Record<string, string>>,
): Record<string, dbus.interface.PropertyOptions> {
  return Object.fromEntries(
    Object.entries(signatures).map(([name, signature]) => [name, { signature, access: 'read' as const }]),
  );
}

const camelCase = (name: string): string => name[0]!.toUpperCase() + name.slice(1);

/** The properties of org.xnbd1.Export but for the domain. */
export const exportRows = statusRows.flatMap(([name, { kind, bus }]) =>
  Object.entries(bus ?? { [camelCase(name)]: kind }).map(([onBus, shown]) => ({ name, onBus, shown })),
);

export const exportSignatures: Readonly<Record<string, string>> = {
  Domain: 's',
  ...Object.fromEntries(exportRows.map(({ onBus, shown }) => [onBus, shown.signature])),
};

/** `domain`: the domain whose disk the export is, or empty. */
export function exportProperties(status: ExportStatus, domain: string): Properties {
  const values = exportRows.map(({ name, onBus, shown }) => [onBus, shown.toBus(status[name])] as const);
  return { Domain: domain, ...Object.fromEntries<unknown>(values) };
}

export class ExportInterface extends PropertyInterface {}
// For the introspection only: the service answers these calls itself, because handlers here do not learn who
// calls.
for (const method of busMethods.keys())
  Object.defineProperty(ExportInterface.prototype, method, { value: () => undefined });
ExportInterface.configureMembers({
  properties: readable(exportSignatures),
  methods: Object.fromEntries(
    [...busMethods].map(([name, { takes }]) => [
      name,
      takes.length === 0 ? {} : { inSignature: 's'.repeat(takes.length), outSignature: 's' },
    ]),
  ),
});

export const relocationSignatures = {
  Uuid: 's',
  Domain: 's',
  DomainUuid: 's',
  State: 's',
  Disks: 'as',
  Exports: 'ao',
  SizeBytes: 't',
  PresentBytes: 't',
  Reason: 's',
} as const;

export function relocationProperties(status: RelocationStatus): Properties {
  const properties: Record<keyof typeof relocationSignatures, unknown> = {
    Uuid: status.uuid,
    Domain: status.domain,
    DomainUuid: status.domainUuid,
    State: status.state,
    Disks: [...status.disks],
    Exports: status.disks.map(exportPath),
    SizeBytes: BigInt(status.sizeBytes),
    PresentBytes: BigInt(status.presentBytes),
    Reason: status.reason ?? '',
  };
  return properties;
}

export class RelocationInterface extends PropertyInterface {}
RelocationInterface.configureMembers({ properties: readable(relocationSignatures) });

/** What the Manager shows of the limits of the host. */
const limitSignatures = {
  Rate: 's',
  PeerRates: 'a{ss}',
  Paused: 'b',
  Arriving: 'u',
  Queued: 'u',
  ArrivalRate: 't',
} as const;

/** Those that may be set. */
export type WritableLimit = 'Rate' | 'Paused';
export const writableLimits: Readonly<Record<WritableLimit, string>> = { Rate: 's', Paused: 'b' };

export function limitProperties({ caps, paused, arriving, queued, rate }: LimitsNow): Properties {
  const properties: Record<keyof typeof limitSignatures, unknown> = {
    Rate: formatCap(caps.host.rate),
    PeerRates: Object.fromEntries([...caps.peers].map(([name, cap]) => [name, formatCap(cap.rate)])),
    Paused: paused,
    Arriving: arriving,
    Queued: queued,
    ArrivalRate: BigInt(rate),
  };
  return properties;
}

/** The signals of docs/reference.md; what a method returns is what it emits. */
export class ManagerInterface extends PropertyInterface {
  RelocationStarted(relocation: string, domain: string, uuid: string): unknown[] {
    return [relocation, domain, uuid];
  }
  RelocationCompleted(
    relocation: string,
    domain: string,
    uuid: string,
    disks: readonly CompletedDisk[],
  ): unknown[] {
    const rows = disks.map((disk) => [
      disk.name,
      BigInt(disk.onDemandBytes),
      BigInt(disk.backgroundBytes),
      BigInt(disk.skippedBytes),
      disk.secondsSinceTakeover,
    ]);
    return [relocation, domain, uuid, rows];
  }
  RelocationFailed(relocation: string, domain: string, uuid: string, reason: string): unknown[] {
    return [relocation, domain, uuid, reason];
  }
  VerificationFailed(
    exportObject: string,
    name: string,
    differentBytes: bigint,
    different: readonly (readonly [bigint, bigint])[],
    reason: string,
  ): unknown[] {
    return [exportObject, name, differentBytes, different, reason];
  }
  OriginUnreachable(exportObject: string, name: string, origin: string, reason: string): unknown[] {
    return [exportObject, name, origin, reason];
  }
  OriginReachable(exportObject: string, name: string, origin: string): unknown[] {
    return [exportObject, name, origin];
  }
  RelocationAlarm(exportObject: string, name: string, reason: string): unknown[] {
    return [exportObject, name, reason];
  }
  /** For the introspection only, as above. */
  SetPeerRate(): void {
    // The service answers.
  }
}
ManagerInterface.configureMembers({
  properties: {
    ...readable({ Version: 's', ...limitSignatures }),
    ...Object.fromEntries(
      Object.entries(writableLimits).map(([name, signature]) => [
        name,
        { signature, access: 'readwrite' as const },
      ]),
    ),
  },
  methods: { SetPeerRate: { inSignature: 'ss' } },
  signals: {
    RelocationStarted: { signature: 'oss' },
    RelocationCompleted: { signature: 'ossa(stttd)' },
    RelocationFailed: { signature: 'osss' },
    VerificationFailed: { signature: 'osta(tt)s' },
    OriginUnreachable: { signature: 'osss' },
    OriginReachable: { signature: 'oss' },
    RelocationAlarm: { signature: 'oss' },
  },
});
