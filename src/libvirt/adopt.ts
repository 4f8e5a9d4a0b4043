/**
 * `adopt` makes the file disks of a shut-off domain xNBD disks, `release` makes its xNBD disks file disks
 * again.
 *
 * Each is a plan first, which says everything that would change and has changed nothing; the administrator is
 * shown it and can say no. Only the disks' own elements change in the XML. The images stay where they are:
 * all that adoption writes beside the definition is the record of each export.
 */
import { open, readdir, realpath, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { isAbsolute, join } from 'node:path';
import type { Config } from '../config/config.ts';
import { removeDurably } from '../store/directory.ts';
import { checkExportName, newRecord, readRecord, writeRecord } from '../store/records/record.ts';
import { lseek, Seek } from '../system/syscalls.ts';
import { readDomain } from './domain-xml.ts';
import type { ShutOffDomain } from './shut-off-domain.ts';
import { unifiedDiff } from './unified-diff.ts';
import { applyEdits, type Edit, indentOf, setAttributes } from './xml-edit.ts';
import { childrenOf, escapeXml, find, parseXml, type XmlElement } from './xml-tree.ts';

export interface PlannedDisk {
  /** What the guest calls it: vda. */
  target: string;
  /** Name of the export. */
  export: string;
  /** Absolute path. */
  image: string;
  sizeBytes: number;
}

export interface DefinitionPlan {
  domain: string;
  before: string;
  after: string;
  /** From before to after, as `diff -u`. */
  diff: string;
  /** Empty when there is nothing to do. */
  disks: PlannedDisk[];
  /** A line for each disk that stays as it is, with the reason. */
  skipped: string[];
}

type Paths = Config['paths'];

/**
 * Keeps the guest from errors while an export is away, and the host's page cache from hiding unfinished
 * writes at a migration.
 */
const driverAttributes = { cache: 'none', error_policy: 'stop', rerror_policy: 'stop' };

/**
 * For so long QEMU waits for an export that is away, before `error_policy` counts. A libvirt that does not
 * know this (9.0) drops it without a word.
 */
const reconnectSeconds = 10;

/**
 * What adopting a domain would change. `xml`: its definition. `baseName`: what its exports are named by, with
 * the target behind (NAME-vda); left out: the domain's own name, as far as that can be.
 * @throws Error, one line, naming the disk and the way out, for one that cannot be adopted.
 */
export async function planAdopt(xml: string, paths: Paths, baseName?: string): Promise<DefinitionPlan> {
  const { name: domain, root, ours } = readDefinition(xml, paths.run);
  const base = baseName ?? exportBase(domain);
  const plan = { domain, disks: [] as PlannedDisk[], skipped: [] as string[] };
  const edits: Edit[] = [];
  for (const element of disksOf(root)) {
    const target = find(element, 'target')?.attributes.dev ?? '?';
    const reason = ours.has(target) ? 'an xNBD disk already' : whyLeft(element);
    if (reason !== undefined) {
      plan.skipped.push(`${target}: ${reason}`);
      continue;
    }
    try {
      const { image, source } = simpleSource(element);
      const name = `${base}-${target}`;
      checkExportName(name);
      await checkUnused(paths.exports, name, image, plan.disks);
      plan.disks.push({
        target,
        export: name,
        image,
        sizeBytes: await sizeOf(image, element.attributes.type),
      });
      edits.push(...adoptEdits(xml, element, source, name, join(paths.run, `${name}.sock`)));
    } catch (error) {
      throw new Error(`domain ${domain}, disk ${target}: ${(error as Error).message}`);
    }
  }
  return finish(plan, xml, applyEdits(xml, edits));
}

/**
 * libvirt takes nearly every name for a domain, an export's has letters, digits and a few signs: accents go,
 * and what else it may not have becomes '-'. @throws Error where too little is left to know it by.
 */
function exportBase(domain: string): string {
  const plain = domain.normalize('NFKD').replaceAll(/\p{M}/gu, '');
  const base = plain.replaceAll(/[^A-Za-z0-9_.+-]+/g, '-').replaceAll(/^[^A-Za-z0-9_]+|-+$/g, '');
  const kept = base.replaceAll(/[^A-Za-z0-9]/g, '').length;
  if (kept > 0 && kept * 2 >= plain.replaceAll(/[^\p{L}\p{N}]/gu, '').length) return base;
  throw new Error(`domain ${domain}: no export can be named by it: give a name with --name NAME`);
}

/** Writes the records, then the definition; when libvirt refuses that, the records go again. */
export async function applyAdopt(domain: ShutOffDomain, plan: DefinitionPlan, paths: Paths): Promise<void> {
  await domain.checkUnchanged(plan.before);
  const written: string[] = [];
  try {
    for (const { export: name, image, sizeBytes } of plan.disks) {
      const directory = join(paths.exports, name);
      written.push(directory);
      await writeRecord(directory, newRecord(name, image, sizeBytes));
    }
    await domain.define(plan.after);
  } catch (error) {
    for (const directory of written) await removeDurably(directory);
    throw error;
  }
}

/**
 * What releasing a domain would change: its disks become plain files or devices again, the exports end. The
 * driver's attributes stay: they do no harm, and what they were before is not recorded.
 * @throws Error, one line, naming the disk and the way out, for one that cannot be released.
 */
export async function planRelease(xml: string, paths: Paths): Promise<DefinitionPlan> {
  const { name: domain, root, ours } = readDefinition(xml, paths.run);
  const plan = { domain, disks: [] as PlannedDisk[], skipped: [] as string[] };
  const edits: Edit[] = [];
  for (const element of disksOf(root)) {
    const target = find(element, 'target')?.attributes.dev ?? '?';
    const name = ours.get(target);
    const source = find(element, 'source');
    if (name === undefined || source === undefined) {
      plan.skipped.push(`${target}: not an xNBD disk`);
      continue;
    }
    try {
      const { image, sizeBytes } = await releasable(paths, name);
      plan.disks.push({ target, export: name, image, sizeBytes });
      const block = (await stat(image)).isBlockDevice();
      edits.push(setAttributes(xml, element, { type: block ? 'block' : 'file' }), {
        start: source.start,
        end: source.end,
        text: `<source ${block ? 'dev' : 'file'}='${escapeXml(image)}'/>`,
      });
    } catch (error) {
      throw new Error(`domain ${domain}, disk ${target}: ${(error as Error).message}`);
    }
  }
  return finish(plan, xml, applyEdits(xml, edits));
}

/** Writes the definition, then removes the exports' records; the images stay. */
export async function applyRelease(domain: ShutOffDomain, plan: DefinitionPlan, paths: Paths): Promise<void> {
  await domain.checkUnchanged(plan.before);
  for (const { export: name } of plan.disks) await releasable(paths, name);
  await domain.define(plan.after);
  for (const { export: name } of plan.disks) await removeDurably(join(paths.exports, name));
}

/** Whether libvirt has kept in its definition that QEMU waits for exports that are away. */
export function keepsReconnect(definition: string, { disks }: DefinitionPlan): boolean {
  const elements = disksOf(parseXml(definition, 'domain XML'));
  return disks.every(({ target }) => {
    const disk = elements.find((element) => find(element, 'target')?.attributes.dev === target);
    return disk !== undefined && find(disk, 'source', 'reconnect') !== undefined;
  });
}

interface Definition {
  name: string;
  root: XmlElement;
  /** Exports of the domain's xNBD disks, by target. */
  ours: Map<string, string>;
}

function readDefinition(xml: string, run: string): Definition {
  const { name, disks } = readDomain(xml, run);
  const root = parseXml(xml, 'domain XML');
  if (root.attributes.type === 'xen') {
    throw new Error(
      `domain ${name} is Xen's: write its disks by hand, <disk type='block'> with source dev='/dev/xnbd/NAME'`,
    );
  }
  return { name, root, ours: new Map(disks.map((disk) => [disk.target, disk.export])) };
}

function disksOf(root: XmlElement): XmlElement[] {
  const devices = find(root, 'devices');
  return devices === undefined ? [] : childrenOf(devices, 'disk');
}

function finish(
  plan: Omit<DefinitionPlan, 'before' | 'after' | 'diff'>,
  before: string,
  after: string,
): DefinitionPlan {
  // What libvirt is given must be what we would read again.
  if (after !== before) parseXml(after, 'the new domain XML');
  return { ...plan, before, after, diff: unifiedDiff(before, after, plan.domain) };
}

/** Why a disk is none of adopt's business; undefined when it is. */
function whyLeft(element: XmlElement): string | undefined {
  const { type = 'file', device = 'disk' } = element.attributes;
  if (device !== 'disk') return `a ${device}`;
  if (find(element, 'readonly') !== undefined) return 'read-only';
  if (type !== 'file' && type !== 'block') return `of type ${type}, neither file nor block`;
  return undefined;
}

/**
 * The image and source of a disk that has nothing which would be lost. @throws Error with the way out for
 * others.
 */
function simpleSource(element: XmlElement): { image: string; source: XmlElement } {
  const format = find(element, 'driver')?.attributes.type ?? 'raw';
  const source = find(element, 'source');
  const image = source?.attributes[element.attributes.type === 'block' ? 'dev' : 'file'];
  if (source === undefined || image === undefined)
    throw new Error('it has no source; give it one, or remove it');
  if (!isAbsolute(image)) throw new Error(`its source ${image} is not an absolute path`);
  if (format !== 'raw') {
    throw new Error(
      `its format is ${format}, adopted are raw images; convert it with qemu-img convert -f ${format} -O raw ${image} ${image}.raw, ` +
        "then write that file and type='raw' into the domain",
    );
  }
  for (const name of ['shareable', 'transient', 'encryption', 'mirror']) {
    if (find(element, name) !== undefined)
      throw new Error(`<${name}> is not possible with an xNBD disk; remove it first`);
  }
  if (find(element, 'backingStore', 'source') !== undefined) {
    throw new Error('it has a backing file; merge it first (virsh blockcommit, or qemu-img convert -O raw)');
  }
  for (const [attribute, value] of Object.entries(source.attributes)) {
    // `index` is libvirt's own number, and `mandatory` what holds without a word.
    if (
      ['file', 'dev', 'index'].includes(attribute) ||
      (attribute === 'startupPolicy' && value === 'mandatory')
    )
      continue;
    throw new Error(
      `its <source> says ${attribute}='${value.slice(0, 100)}', which would be lost: an xNBD disk has no such thing; remove it first`,
    );
  }
  const [child] = source.children;
  if (child !== undefined)
    throw new Error(`its <source> has <${child.name}>, which would be lost; remove it first`);
  return { image, source };
}

function adoptEdits(
  xml: string,
  element: XmlElement,
  source: XmlElement,
  name: string,
  socket: string,
): Edit[] {
  const indent = indentOf(xml, source);
  const text = [
    `<source protocol='nbd' name='${escapeXml(name)}'>`,
    `${indent}  <host transport='unix' socket='${escapeXml(socket)}'/>`,
    `${indent}  <reconnect delay='${reconnectSeconds}'/>`,
    `${indent}</source>`,
  ].join('\n');
  const driver = find(element, 'driver');
  const change: Edit =
    driver === undefined
      ? {
          start: source.start,
          end: source.end,
          text: `<driver name='qemu' type='raw' ${Object.entries(driverAttributes)
            .map(([key, value]) => `${key}='${value}'`)
            .join(' ')}/>\n${indent}${text}`,
        }
      : { start: source.start, end: source.end, text };
  return [
    setAttributes(xml, element, { type: 'network' }),
    ...(driver === undefined ? [] : [setAttributes(xml, driver, { type: 'raw', ...driverAttributes })]),
    change,
  ];
}

/** Bytes of an image that is what the domain says it is. */
async function sizeOf(image: string, type = 'file'): Promise<number> {
  const info = await stat(image).catch((error: unknown) => {
    throw new Error(
      `image ${image}: ${(error as NodeJS.ErrnoException).code}; put it in place, or remove the disk`,
    );
  });
  if (type === 'block' ? !info.isBlockDevice() : !info.isFile()) {
    throw new Error(
      `image ${image} is not a ${type === 'block' ? 'block device' : 'file'}, as type='${type}' says`,
    );
  }
  if (info.isFile()) return info.size;
  const device = await open(image, 'r');
  try {
    return lseek(device.fd, 0, Seek.END);
  } finally {
    await device.close();
  }
}

async function checkUnused(
  exports: string,
  name: string,
  image: string,
  planned: readonly PlannedDisk[],
): Promise<void> {
  const path = await realpath(image).catch(() => image);
  for (const other of planned) {
    if ((await realpath(other.image)) === path)
      throw new Error(`its image ${image} is also that of disk ${other.target}`);
  }
  const names = await readdir(exports).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  });
  for (const other of names) {
    const record = await readRecord(join(exports, other));
    if (record === undefined) continue;
    if (other === name) {
      throw new Error(
        `an export ${name} exists (${join(exports, other)}, image ${record.image}): give other names with --name NAME, or release its domain first`,
      );
    }
    if (record.state === 'retired') continue;
    if ((await realpath(record.image).catch(() => record.image)) === path) {
      throw new Error(
        `its image ${image} belongs to export ${record.name} already; release that export's domain first`,
      );
    }
  }
}

/**
 * The record of an export that rests: complete, here, and without a process. @throws Error with the way out
 * for others.
 */
async function releasable(paths: Paths, name: string): Promise<{ image: string; sizeBytes: number }> {
  const record = await readRecord(join(paths.exports, name));
  if (record === undefined) {
    throw new Error(
      `there is no export ${name} in ${paths.exports}: the disk lives on another host, release it there`,
    );
  }
  if (record.state !== 'serving' || !record.complete) {
    throw new Error(
      `export ${name} is ${record.state}${record.complete ? '' : ' and not complete'}; released is what is complete and serving`,
    );
  }
  if (await answers(join(paths.run, `${name}.ctl`))) {
    throw new Error(`export ${name} is running; see xnbdctl status ${name}, and try again when it has ended`);
  }
  await sizeOf(record.image, (await stat(record.image)).isBlockDevice() ? 'block' : 'file');
  return record;
}

async function answers(socket: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const connection = connect(socket);
    const settle = (answer: boolean): void => {
      connection.destroy();
      resolve(answer);
    };
    connection.once('connect', () => settle(true)).once('error', () => settle(false));
  });
}
