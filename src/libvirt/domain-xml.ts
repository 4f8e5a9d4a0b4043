/**
 * What the daemon needs of a domain's XML: which of its disks are xNBD's, and where their origins are.
 *
 * A disk is xNBD's when QEMU reaches it over NBD on a socket in our run directory, RUN/NAME.sock, or (on Xen,
 * and wherever a domain wants a block device) when its source is /dev/xnbd/NAME. Everything else in a domain
 * is none of our business.
 */
import { basename, dirname, join, normalize } from 'node:path';
import { checkExportName } from '../store/records/record.ts';
import { childrenOf, escapeXml, find, parseXml, type XmlElement } from './xml-tree.ts';

/** Namespace and key of our metadata in a domain. */
export const originNamespace = 'https://xnbd.org/origin/1';
export const originKey = 'xnbd';

const deviceDirectory = '/dev/xnbd';

export interface DomainDisk {
  /** Name of the export. */
  export: string;
  /** Absolute path of the export's NBD socket. */
  socket: string;
  /** What the guest calls it: vda. */
  target: string;
  /** /dev/xnbd/NAME where the domain wants a block device, else null. */
  blockDevice: string | null;
  readOnly: boolean;
  /** Other domains may use it at the same time: <shareable/>. */
  shareable: boolean;
}

export interface Origin {
  uri: string;
  /** Identity of the disk. */
  uuid: string;
  generation: number;
}

export interface DomainInfo {
  name: string;
  uuid: string;
  /** xNBD's alone, in the order of the XML. */
  disks: DomainDisk[];
  /** By export; only of the disks above. */
  origins: Map<string, Origin>;
}

const uuidForm = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/**
 * Reads a domain as libvirt gives it to hooks and clients. `runDir`: where the exports' sockets are.
 * @throws Error, one line, for XML that is hostile or malformed, and for an xNBD disk that contradicts
 * itself.
 */
export function readDomain(xml: string, runDir: string): DomainInfo {
  const root = parseXml(xml, 'domain XML');
  if (root.name !== 'domain')
    throw new Error(`domain XML begins with <${root.name.slice(0, 100)}>, not with <domain>`);
  const name = find(root, 'name')?.text.trim() ?? '';
  const uuid = (find(root, 'uuid')?.text.trim() ?? '').toLowerCase();
  if (name === '') throw new Error('domain XML has no <name>');
  if (!uuidForm.test(uuid)) throw new Error(`domain ${name}: '${uuid.slice(0, 100)}' is no uuid`);
  const disks: DomainDisk[] = [];
  for (const element of childrenOf(find(root, 'devices') ?? root, 'disk')) {
    const disk = readDisk(element, name, normalize(runDir));
    if (disk === undefined) continue;
    const other = disks.find((known) => known.export === disk.export);
    if (other !== undefined) {
      throw new Error(
        `domain ${name}: disks ${other.target} and ${disk.target} both use export ${disk.export}; give each its own`,
      );
    }
    disks.push(disk);
  }
  return { name, uuid, disks, origins: readOrigins(root, name, disks) };
}

function readDisk(element: XmlElement, domain: string, runDir: string): DomainDisk | undefined {
  const source = find(element, 'source');
  if (source === undefined) return undefined;
  const target = find(element, 'target')?.attributes.dev ?? '?';
  const name =
    element.attributes.type === 'network' ? networkExport(source, runDir) : blockExport(element, source);
  if (name === undefined) return undefined;
  try {
    checkExportName(name);
    const asked = source.attributes.name;
    if (element.attributes.type === 'network' && asked !== name) {
      throw new Error(
        `its socket ${name}.sock serves export ${name}, but it asks for ${asked === undefined ? 'no name' : `'${asked.slice(0, 100)}'`}; write <source protocol='nbd' name='${name}'>`,
      );
    }
  } catch (error) {
    throw new Error(`domain ${domain}, disk ${target}: ${(error as Error).message}`);
  }
  return {
    export: name,
    socket: join(runDir, `${name}.sock`),
    target,
    blockDevice: element.attributes.type === 'block' ? join(deviceDirectory, name) : null,
    readOnly: find(element, 'readonly') !== undefined,
    shareable: find(element, 'shareable') !== undefined,
  };
}

/** The name in RUN/NAME.sock; undefined for a disk on another socket, host or protocol. */
function networkExport(source: XmlElement, runDir: string): string | undefined {
  const { transport, socket } = find(source, 'host')?.attributes ?? {};
  if (source.attributes.protocol !== 'nbd' || transport !== 'unix' || socket === undefined) return undefined;
  const path = normalize(socket);
  return dirname(path) === runDir && path.endsWith('.sock') ? basename(path, '.sock') : undefined;
}

function blockExport(element: XmlElement, source: XmlElement): string | undefined {
  const path = normalize(source.attributes.dev ?? '');
  return element.attributes.type === 'block' && dirname(path) === deviceDirectory
    ? basename(path)
    : undefined;
}

function readOrigins(root: XmlElement, domain: string, disks: readonly DomainDisk[]): Map<string, Origin> {
  const origins = new Map<string, Origin>();
  const ours = find(root, 'metadata')?.children.find(
    ({ local, uri }) => local === 'origin' && uri === originNamespace,
  );
  for (const { local, attributes } of ours?.children ?? []) {
    const { name = '', uri = '', uuid = '', generation = '' } = attributes;
    if (local !== 'disk' || !disks.some((disk) => disk.export === name)) continue;
    if (
      !/^nbds?(\+unix)?:\/\/[\x21-\x7E]{1,2000}$/.test(uri) ||
      !uuidForm.test(uuid) ||
      !/^\d{1,15}$/.test(generation)
    ) {
      throw new Error(
        `domain ${domain}: <xnbd:origin> of ${name} is not usable (uri ${JSON.stringify(uri.slice(0, 200))}, uuid ${JSON.stringify(uuid.slice(0, 40))}, generation ${JSON.stringify(generation.slice(0, 20))})`,
      );
    }
    origins.set(name, { uri, uuid: uuid.toLowerCase(), generation: Number(generation) });
  }
  return origins;
}

/**
 * The element that tells a destination where these disks are, for virDomainSetMetadata with our namespace and
 * key. libvirt itself puts it (and its children) into the namespace, and refuses an element that is there
 * already; readDomain reads what comes of it.
 */
export function originMetadata(disks: readonly (Origin & { name: string })[]): string {
  const lines = disks.map(
    ({ name, uri, uuid, generation }) =>
      `<disk name="${escapeXml(name)}" uri="${escapeXml(uri)}" uuid="${escapeXml(uuid)}" generation="${generation}"/>`,
  );
  return `<origin>${lines.join('')}</origin>`;
}
