/** Exports as tables for people. */
import Table from 'cli-table3';
import { type StatusName, type StatusProperty, statusRows } from '../control/status.ts';
import { formatBytes, formatClock, formatRate, formatSeconds, formatShare } from '../log/numbers.ts';
import { originHost } from '../nbd/uri.ts';
import type { KnownExport } from './known-exports.ts';

/** No lines, two blanks between columns: good to read, and good for awk. */
const PLAIN = {
  chars: {
    top: '',
    'top-mid': '',
    'top-left': '',
    'top-right': '',
    bottom: '',
    'bottom-mid': '',
    'bottom-left': '',
    'bottom-right': '',
    left: '',
    'left-mid': '',
    mid: '',
    'mid-mid': '',
    right: '',
    'right-mid': '',
    middle: '  ',
  },
  style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
};

type Align = 'left' | 'right';

function table(head: string[], colAligns: Align[], rows: string[][]): string {
  const made = new Table({ ...PLAIN, head, colAligns });
  made.push(...rows);
  return made
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

/** What an administrator should look at, in a word or two; empty when all is well. */
function trouble(each: KnownExport): string {
  if (each.problem !== null) return each.problem;
  if (each.pid === null) return 'not running';
  if (!each.originReachable) return unreachable(each);
  if (each.badBytes > 0) return `${formatBytes(each.badBytes)} bad`;
  if (each.alarm !== null) return each.alarm;
  if (each.copyPaused !== null) return 'copy paused';
  if (each.verification?.state === 'differs') return 'differs from origin';
  return each.error === null ? '' : 'error';
}

/** In a few words, for a table. */
export function unreachable({ originUnreachableSince }: Pick<KnownExport, 'originUnreachableSince'>): string {
  if (originUnreachableSince === null) return 'origin unreachable';
  return `origin unreachable since ${originUnreachableSince.slice(0, 19)}Z`;
}

/** The time until all of it is here; nothing where all is. */
function left({ state, pid, secondsLeft }: KnownExport): string {
  if (state !== 'relocating' || pid === null) return '';
  return secondsLeft === null ? 'unknown' : formatClock(secondsLeft);
}

/** One line an export. */
export function listTable(exports: readonly KnownExport[]): string {
  return table(
    ['NAME', 'STATE', 'SIZE', 'PRESENT', 'LEFT', 'TROUBLE'],
    ['left', 'left', 'right', 'right', 'right', 'left'],
    exports.map((each) => [
      each.name,
      each.state,
      formatBytes(each.sizeBytes),
      formatShare(each.presentBytes, each.sizeBytes),
      left(each),
      each.pid === null && each.problem === null ? '' : trouble(each),
    ]),
  );
}

/** One line an export, with its counters. */
export function statusTable(exports: readonly KnownExport[]): string {
  return table(
    [
      ...['NAME', 'STATE', 'SIZE', 'PRESENT', 'ON DEMAND', 'BACKGROUND', 'SKIPPED'],
      ...['RATE', 'LEFT', 'CLIENTS', 'TROUBLE'],
    ],
    ['left', 'left', ...Array<Align>(8).fill('right'), 'left'],
    exports.map((each) => [
      each.name,
      each.state,
      formatBytes(each.sizeBytes),
      formatShare(each.presentBytes, each.sizeBytes),
      formatBytes(each.onDemandBytes),
      formatBytes(each.backgroundBytes),
      formatBytes(each.skippedBytes),
      each.state === 'relocating' && each.pid !== null ? formatRate(each.arrivalRate) : '',
      left(each),
      String(each.clients),
      trouble(each),
    ]),
  );
}

function takeover({ state, secondsSinceTakeover }: KnownExport): string | null {
  if (secondsSinceTakeover === 0) return null;
  const time = formatSeconds(secondsSinceTakeover);
  return state === 'relocating' ? `${time} ago` : `it was complete after ${time}`;
}

/** What would be lost with the origin, and for how long. */
function depends({ origin, pid, missingBytes, sizeBytes, secondsLeft }: KnownExport): string | null {
  if (origin === null || pid === null || missingBytes === 0) return null;
  const left = secondsLeft === null ? 'time left unknown' : `${formatClock(secondsLeft)} left`;
  return `on ${originHost(origin)} for ${formatShare(missingBytes, sizeBytes)} (${formatBytes(missingBytes)}), ${left}`;
}

/** How long requests wait for the origin; nothing where there is none. */
function timeout({ origin, originTimeoutSeconds }: KnownExport): string | null {
  if (origin === null) return null;
  const limit = originTimeoutSeconds === null ? 'for ever' : `${originTimeoutSeconds} s, then get EIO`;
  return `requests wait for the origin ${limit}`;
}

function bad({ badBytes, badRanges }: KnownExport): string | null {
  if (badBytes === 0) return null;
  const where = badRanges.map(({ offset, length, at }) => `${offset}+${length} (${at})`);
  return `${formatBytes(badBytes)} cannot be copied: ${where.join(', ')}`;
}

function compared({ verification }: KnownExport): string | null {
  if (verification === null) return null;
  const { state, comparedBytes, differentBytes, doubtfulBytes } = verification;
  const parts = [`${formatBytes(comparedBytes)} equal`, `${formatBytes(differentBytes)} different`];
  if (doubtfulBytes > 0) parts.push(`${formatBytes(doubtfulBytes)} in doubt`);
  return `${state}: ${parts.join(', ')}`;
}

/** Lines that say more than their property, or say it in other words; null: there is nothing to say. */
const lines: Partial<Record<StatusName, (each: KnownExport) => string | null>> = {
  state: ({ state, pid, problem, release }) => {
    if (pid === null) return `${state}, ${problem ?? 'not running'}`;
    return `${state}, pid ${pid}${release === '' ? '' : ` of release ${release}`}`;
  },
  uuid: ({ uuid, generation }) => `${uuid}, generation ${generation}`,
  sizeBytes: ({ sizeBytes }) => `${formatBytes(sizeBytes)} (${sizeBytes} bytes)`,
  presentBytes: ({ presentBytes, sizeBytes }) =>
    `${formatBytes(presentBytes)}, ${formatShare(presentBytes, sizeBytes)}`,
  missingBytes: depends,
  arrivalRate: ({ state, arrivalRate, averageRate }) =>
    state === 'relocating' ? `${formatRate(arrivalRate)} now, ${formatRate(averageRate)} on average` : null,
  secondsSinceTakeover: takeover,
  originUnreachableSince: ({ originUnreachableSince, originUnreachableReason }) =>
    originUnreachableSince === null
      ? null
      : `since ${originUnreachableSince}: ${originUnreachableReason ?? ''}`,
  originTimeoutSeconds: timeout,
  settings: ({ settings }) => {
    const words = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
    return words.length === 0 ? null : words.join(', ');
  },
  badBytes: bad,
  verification: compared,
  lease: ({ lease }) => (lease === null ? null : `lease ${lease}`),
  movedAt: ({ movedAt, movedTo }) =>
    movedAt === null ? null : `${movedTo || 'a host that gave no name'}, ${movedAt}`,
  clients: ({ clients, writtenBytes }) => `${clients}, ${formatBytes(writtenBytes)} written`,
};

/** A property whose line says no more than its value. */
function plain(value: unknown, unit: StatusProperty<unknown>['unit']): string | null {
  if (value === null) return null;
  if (typeof value !== 'number') return typeof value === 'string' ? value : JSON.stringify(value);
  if (unit === 'bytes') return formatBytes(value);
  if (unit === 'bit/s') return formatRate(value);
  return unit === 'seconds' ? formatSeconds(value) : String(value);
}

/** All about one export, one thing a line. */
export function statusDetails(each: KnownExport): string {
  return statusRows
    .flatMap(([name, { label, unit }]) => {
      const line = lines[name];
      const text = line === undefined ? plain(each[name], unit) : line(each);
      return label === null || text === null ? [] : [`${label.padEnd(12)}${text}`];
    })
    .join('\n');
}
