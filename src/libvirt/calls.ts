/**
 * The few calls of libvirt that we make, over libvirt-dbus. Each has a deadline: libvirt blocks calls about a
 * domain while one of its hooks runs.
 */
import dbus, { type Variant } from 'dbus-next';
import type { Bus } from '../system/bus.ts';
import { originKey, originNamespace } from './domain-xml.ts';

/** libvirt-dbus's word for a connection: QEMU is qemu:///system, Xen xen:///system, Test test:///default. */
export type Driver = 'QEMU' | 'Xen' | 'Test';

export const libvirtName = 'org.libvirt';

const connectInterface = 'org.libvirt.Connect';
const domainInterface = 'org.libvirt.Domain';

/**
 * virDomainModificationImpact, virDomainXMLFlags, virConnectListAllDomainsFlags, virDomainMetadataType,
 * virDomainState.
 */
const affectLive = 1;
const xmlSecure = 1;
const xmlInactive = 2;
const listActive = 1;
const metadataElement = 2;
/** virDomainState. */
export const stateRunning = 1;
export const statePaused = 3;
export const stateShutOff = 5;
/** virDomainPausedReason: a disk's error stopped the guest. */
const pausedForIoError = 5;

/** Milliseconds. */
const timeout = 10_000;
const shortTimeout = 3000;

export function driverPath(driver: Driver): string {
  return `/org/libvirt/${driver}`;
}

/** The object of a domain, made from its uuid. */
export function domainPath(driver: Driver, uuid: string): string {
  return `${driverPath(driver)}/domain/_${uuid.toLowerCase().replaceAll('-', '_')}`;
}

/** The uuid in the path of a domain; undefined for other paths. */
export function uuidOfPath(path: string): string | undefined {
  const match = /^\/org\/libvirt\/\w+\/domain\/_([0-9a-f]{8}(?:_[0-9a-f]{4}){3}_[0-9a-f]{12})$/.exec(path);
  return match?.[1]?.replaceAll('_', '-');
}

async function connectCall(
  bus: Bus,
  driver: Driver,
  member: string,
  signature: string,
  body: unknown[],
): Promise<unknown> {
  const call = { destination: libvirtName, path: driverPath(driver), interface: connectInterface };
  const [result] = await bus.call({ ...call, member, signature, body, timeout });
  return result;
}

async function domainCall(
  bus: Bus,
  path: string,
  member: string,
  signature: string,
  body: unknown[],
  limit = timeout,
): Promise<unknown> {
  const call = { destination: libvirtName, path, interface: domainInterface };
  const [result] = await bus.call({ ...call, member, signature, body, timeout: limit });
  return result;
}

/**
 * Paths of the active domains. The call also makes libvirt-dbus connect, without which it sends no events.
 */
export async function listActiveDomains(bus: Bus, driver: Driver): Promise<string[]> {
  return (await connectCall(bus, driver, 'ListDomains', 'u', [listActive])) as string[];
}

/** The path of the domain of that name.
 * @throws DBusError with libvirt's own words when there is none. */
export async function lookUpDomain(bus: Bus, driver: Driver, name: string): Promise<string> {
  return (await connectCall(bus, driver, 'DomainLookupByName', 's', [name])) as string;
}

/** Defines the domain anew, as `virsh define`. */
export async function defineDomain(bus: Bus, driver: Driver, xml: string): Promise<void> {
  await connectCall(bus, driver, 'DomainDefineXML', 's', [xml]);
}

export async function domainName(bus: Bus, path: string): Promise<string> {
  const [value] = await bus.call({
    destination: libvirtName,
    path,
    interface: 'org.freedesktop.DBus.Properties',
    member: 'Get',
    signature: 'ss',
    body: [domainInterface, 'Name'],
    timeout: shortTimeout,
  });
  return (value as Variant<string>).value;
}

/** virDomainState: 1 running, 3 paused, 5 shut off. */
export async function domainState(bus: Bus, path: string): Promise<number> {
  const [state] = await stateAndReason(bus, path);
  return state;
}

async function stateAndReason(bus: Bus, path: string): Promise<[number, number]> {
  return (await domainCall(bus, path, 'GetState', 'u', [0], shortTimeout)) as [number, number];
}

/** Whether the domain is paused because of a disk's error, and for nothing else: by nobody's wish. */
export async function isStoppedByError(bus: Bus, path: string): Promise<boolean> {
  const [state, reason] = await stateAndReason(bus, path);
  return state === statePaused && reason === pausedForIoError;
}

/** Targets (vda) of the disks that have had an error since the domain ran last. */
export async function disksWithErrors(bus: Bus, path: string): Promise<string[]> {
  const errors = (await domainCall(bus, path, 'GetDiskErrors', 'u', [0], shortTimeout)) as [string, number][];
  return errors.map(([target]) => target);
}

/** `virsh resume`. */
export async function resumeDomain(bus: Bus, path: string): Promise<void> {
  await domainCall(bus, path, 'Resume', '', []);
}

/** virDomainJobOperation: an outgoing migration. */
const OUTGOING = 5;

/**
 * The domain is being migrated away: it has a job, and that is an outgoing migration where the driver says
 * what jobs are (libxl does not).
 */
export async function hasOutgoingJob(bus: Bus, path: string): Promise<boolean> {
  const [type, stats] = (await domainCall(bus, path, 'GetJobStats', 'u', [0], shortTimeout)) as [
    number,
    Record<string, Variant>,
  ];
  const operation = bare(stats['operation']);
  return type !== 0 && (operation === undefined || operation === OUTGOING);
}

/** Libvirt is at work on the domain: migrates it, saves it. */
export async function hasJob(bus: Bus, path: string): Promise<boolean> {
  const [type] = (await domainCall(bus, path, 'GetJobInfo', '', [], shortTimeout)) as [number];
  return type !== 0;
}

/** The value in a variant; libvirt-dbus 1.4 puts one into another. */
function bare(variant: Variant | undefined): unknown {
  let value: unknown = variant;
  while (value instanceof dbus.Variant) value = value.value;
  return value;
}

/** The XML of the domain as it is now. */
export async function liveXml(bus: Bus, path: string): Promise<string> {
  return (await domainCall(bus, path, 'GetXMLDesc', 'u', [0])) as string;
}

/** The XML of the definition, whole: with the passwords, which a definition made without them would lose. */
export async function definitionXml(bus: Bus, path: string): Promise<string> {
  return (await domainCall(bus, path, 'GetXMLDesc', 'u', [xmlInactive | xmlSecure])) as string;
}

/** Sets our element (domain-xml.ts, originMetadata) in the live metadata of a running domain. */
export async function setMetadata(bus: Bus, path: string, xml: string): Promise<void> {
  await domainCall(bus, path, 'SetMetadata', 'isssu', [
    metadataElement,
    xml,
    originKey,
    originNamespace,
    affectLive,
  ]);
}

/**
 * Whether the domain's memory is kept on disk (`virsh managedsave`): its next start goes on with the disks of
 * then.
 */
export async function hasManagedSave(bus: Bus, path: string): Promise<boolean> {
  return (await domainCall(bus, path, 'HasManagedSaveImage', 'u', [0])) as boolean;
}
