/**
 * The configuration of a host, /etc/xnbd/xnbd.conf: what may stand in it, and what holds where it says
 * nothing.
 */
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { isAbsolute } from 'node:path';
import { parse as parseIni } from 'ini';
import * as v from 'valibot';
import { type Address, parseAddress } from './address.ts';
import { parseAllowedPeers } from './allowed-peers.ts';
import { checkLines, type Fault, type Located } from './ini-lines.ts';
import type { RateSchedule } from './rate-schedule.ts';
import { type RelocationSettings, relocationRows, relocationSettings, type Setting } from './settings.ts';

export const defaultConfigPath = '/etc/xnbd/xnbd.conf';

export interface Peer extends Address {
  readonly name: string;
}

/** A rate, and those that hold in its place at their times. bit/s; null: none. */
export interface Cap {
  readonly rate: number | null;
  readonly schedule: RateSchedule | null;
}

const AddressText = v.pipe(
  v.string(),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    const address = parseAddress(dataset.value);
    if (address !== undefined) return address;
    addIssue({ message: 'allowed is HOST:PORT or [IPV6]:PORT, the port from 1 to 65535' });
    return NEVER;
  }),
);
/** Where a host is found by others. */
const OthersAddress = v.pipe(
  AddressText,
  v.check(
    ({ host }) => !host.includes('%'),
    'an address with a zone (%) means nothing to another host: allowed is a name, or an address that all hosts reach',
  ),
);
const Path = v.pipe(
  v.string(),
  v.check((path) => isAbsolute(path) && !path.includes('\0'), 'allowed is an absolute path'),
);
const AllowedPeers = v.pipe(
  v.string(),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    const peers = parseAllowedPeers(dataset.value);
    if (peers !== undefined) return peers;
    addIssue({
      message:
        'allowed are common names or DNS names of certificates, and sha256: with 64 hexadecimal digits, separated by commas',
    });
    return NEVER;
  }),
);
const oneOf = <const Words extends readonly [string, ...string[]]>(words: Words) =>
  v.picklist(words, `allowed is ${words.join(' or ')}`);
/** One setting of relocations. */
const SettingText = (setting: Setting<unknown>) =>
  v.pipe(
    v.string(),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const value = setting.parse(dataset.value);
      if (value !== undefined) return value;
      addIssue({ message: `allowed is ${setting.allowed}` });
      return NEVER;
    }),
  );

const Schema = v.strictObject({
  paths: v.optional(
    v.strictObject({
      images: v.optional(Path, '/var/lib/xnbd/images'),
      exports: v.optional(Path, '/var/lib/xnbd/exports'),
      run: v.optional(Path, '/run/xnbd'),
    }),
    {},
  ),
  gateway: v.optional(
    v.strictObject({
      listen: v.optional(AddressText, '[::]:10809'),
      advertise: v.optional(OthersAddress),
      // That `off` must be said is the point.
      tls: v.optional(oneOf(['required', 'off']), 'required'),
    }),
    {},
  ),
  relocation: v.optional(
    v.strictObject(
      Object.fromEntries(
        relocationRows.map(([name, row]) => [name, v.optional(SettingText(row), row.default)]),
      ),
    ),
    {},
  ),
  tls: v.optional(
    v.pipe(
      v.strictObject({
        ca: v.optional(Path),
        crl: v.optional(Path),
        cert: v.optional(Path),
        key: v.optional(Path),
        'client-cert': v.optional(Path),
        'client-key': v.optional(Path),
        allow: v.optional(AllowedPeers),
      }),
      // One without the other means nothing; the fault is told at the line that is there.
      v.rawCheck(({ dataset, addIssue }) => {
        if (!dataset.typed) return;
        const section = dataset.value;
        for (const [one, other] of [
          ['cert', 'key'],
          ['key', 'cert'],
          ['client-cert', 'client-key'],
          ['client-key', 'client-cert'],
        ] as const) {
          if (section[one] === undefined || section[other] !== undefined) continue;
          const path = [
            { type: 'object', origin: 'value', input: section, key: one, value: section[one] },
          ] as const;
          addIssue({
            input: section[one],
            message: `allowed is ${one} together with ${other}`,
            path: [...path],
          });
        }
      }),
    ),
    {},
  ),
  peers: v.optional(v.record(v.string(), OthersAddress), {}),
  'peer-rate': v.optional(v.record(v.string(), SettingText(relocationSettings.rate)), {}),
  'peer-rate-schedule': v.optional(
    v.record(v.string(), SettingText(relocationSettings['rate-schedule'])),
    {},
  ),
  libvirt: v.optional(
    v.strictObject({
      dbus: v.optional(
        v.pipe(
          v.string(),
          v.check(
            (text) => text === 'system' || /^(unix|tcp):\S+=/.test(text),
            'allowed is system or a D-Bus address, such as unix:path=/run/dbus/system_bus_socket',
          ),
        ),
        'system',
      ),
    }),
    {},
  ),
  log: v.optional(
    v.strictObject({ level: v.optional(oneOf(['debug', 'info', 'warning', 'error']), 'info') }),
    {},
  ),
});

/** Which keys each section takes; null: any. */
const keys: Readonly<Record<string, readonly string[] | null>> = {
  paths: ['images', 'exports', 'run'],
  gateway: ['listen', 'advertise', 'tls'],
  tls: ['ca', 'crl', 'cert', 'key', 'client-cert', 'client-key', 'allow'],
  relocation: relocationRows.map(([name]) => name),
  peers: null,
  'peer-rate': null,
  'peer-rate-schedule': null,
  libvirt: ['dbus'],
  log: ['level'],
};

export interface Config {
  readonly paths: {
    /** Where the images of disks that arrive are made. */
    readonly images: string;
    /** One directory an export: record and present map. */
    readonly exports: string;
    /** Sockets: NBD and control of each export, hooks. */
    readonly run: string;
  };
  readonly gateway: {
    readonly listen: Address;
    /** What other hosts are told to connect to. */
    readonly advertise: Address;
    readonly tls: 'required' | 'off';
  };
  /** Paths; null: the default places (src/pki/certificate-files.ts). */
  readonly tls: {
    readonly ca: string | null;
    readonly crl: string | null;
    readonly cert: string | null;
    readonly key: string | null;
    /** As a client, where that is another one. */
    readonly clientCert: string | null;
    readonly clientKey: string | null;
    /** Names or fingerprints of the certificates of other hosts (src/config/allowed-peers.ts). */
    readonly allow: readonly string[];
  };
  readonly relocation: RelocationSettings;
  /** Gateways to ask for an export by name, in the order of the file. */
  readonly peers: readonly Peer[];
  /** What all disks that come from a peer take together, by the peer's name. */
  readonly peerRates: ReadonlyMap<string, Cap>;
  readonly libvirt: {
    /** 'system', or the address of the bus that libvirt-dbus is on. */
    readonly dbus: string;
  };
  readonly log: { readonly level: 'debug' | 'info' | 'warning' | 'error' };
}

export class ConfigError extends Error {
  override name = 'ConfigError';
}

/**
 * Checks and completes the text of a configuration; `path` only names it in errors.
 * @throws ConfigError with a line `PATH:LINE: what is wrong, what is allowed` for each fault of the file.
 */
export function parseConfig(text: string, path: string): Config {
  const { faults, lines, trimmed } = checkLines(text, keys);
  const sections = wellFormed(parseIni(trimmed), lines);
  const result = v.safeParse(Schema, sections);
  for (const issue of result.issues ?? []) faults.push(locate(issue, lines));
  faults.push(...unknownPeers(sections, lines));
  if (faults.length > 0 || !result.success) {
    faults.sort((a, b) => a.line - b.line);
    throw new ConfigError(faults.map(({ line, message }) => `${path}:${line}: ${message}`).join('\n'));
  }
  const { paths, gateway, tls, relocation, peers, libvirt, log } = result.output;
  const rates = new Map(Object.entries(result.output['peer-rate']) as [string, Cap['rate']][]);
  const schedules = new Map(
    Object.entries(result.output['peer-rate-schedule']) as [string, Cap['schedule']][],
  );
  return {
    paths,
    gateway: {
      listen: gateway.listen,
      advertise: gateway.advertise ?? { host: hostname(), port: gateway.listen.port },
      tls: gateway.tls,
    },
    tls: {
      ca: tls.ca ?? null,
      crl: tls.crl ?? null,
      cert: tls.cert ?? null,
      key: tls.key ?? null,
      clientCert: tls['client-cert'] ?? null,
      clientKey: tls['client-key'] ?? null,
      allow: tls.allow ?? [],
    },
    relocation: relocation as RelocationSettings,
    peers: Object.entries(peers).map(([name, address]) => ({ name, ...address })),
    peerRates: new Map(
      [...rates.keys(), ...schedules.keys()].map((name) => [
        name,
        { rate: rates.get(name) ?? null, schedule: schedules.get(name) ?? null },
      ]),
    ),
    libvirt,
    log,
  };
}

/** What the schema can judge although other lines may be faulty. */
function wellFormed(
  sections: Record<string, unknown>,
  lines: Located,
): Record<string, Record<string, unknown>> {
  const result: Record<string, Record<string, unknown>> = {};
  for (const located of lines.keys()) {
    const [section = '', key = ''] = located.split('\n');
    const entries = sections[section] as Record<string, unknown>;
    // ini turns these three words into what JSON means by them.
    result[section] = { ...result[section], [key]: String(entries[key]) };
  }
  return result;
}

/** A rate for a peer that is not in [peers] would hold for nothing. */
function unknownPeers(sections: Record<string, Record<string, unknown>>, lines: Located): Fault[] {
  const peers = Object.keys(sections['peers'] ?? {});
  return ['peer-rate', 'peer-rate-schedule'].flatMap((section) =>
    Object.keys(sections[section] ?? {})
      .filter((name) => !peers.includes(name))
      .map((name) => ({
        line: lines.get(`${section}\n${name}`) ?? 1,
        message: `${name} in [${section}]: allowed are the names in [peers]${peers.length === 0 ? ', which names none' : `: ${peers.join(', ')}`}`,
      })),
  );
}

function locate(issue: v.BaseIssue<unknown>, lines: Located): Fault {
  const [section = '', key = ''] = (issue.path ?? []).map((item) => String(item.key));
  return {
    line: lines.get(`${section}\n${key}`) ?? 1,
    message: `${key} = ${String(issue.input).slice(0, 200)} in [${section}]: ${issue.message}`,
  };
}

/**
 * Reads the configuration. Without `path` the default one, which may be missing: then the defaults hold.
 * @throws ConfigError for what is wrong in the file; Error naming it when it cannot be read.
 */
export async function loadConfig(path?: string): Promise<Config> {
  const named = path ?? defaultConfigPath;
  let bytes: Buffer;
  try {
    bytes = await readFile(named);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' && path === undefined) return parseConfig('', named);
    const wayOut = code === 'ENOENT' ? 'create it, or name another with --config' : 'run as root';
    throw new ConfigError(`configuration ${named} cannot be read (${code}): ${wayOut}`);
  }
  return parseConfig(bytes.toString('utf8'), named);
}
