/** Exports as tables for people. */
import Table from 'cli-table3';
import { formatBytes, formatSeconds, formatShare } from './format.ts';
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
  if (each.pid === null) return 'not running';
  if (!each.originReachable) return unreachable(each);
  if (each.badBytes > 0) return `${formatBytes(each.badBytes)} bad`;
  if (each.copyPaused !== null) return 'copy paused: no room';
  if (each.verification?.state === 'differs') return 'differs from origin';
  return each.error === null ? '' : 'error';
}

/** In a few words, for a table. */
export function unreachable({ originUnreachableSince }: Pick<KnownExport, 'originUnreachableSince'>): string {
  if (originUnreachableSince === null) return 'origin unreachable';
  return `origin unreachable since ${originUnreachableSince.slice(0, 19)}Z`;
}

/** One line an export. */
export function listTable(exports: readonly KnownExport[]): string {
  return table(
    ['NAME', 'STATE', 'SIZE', 'PRESENT', 'TROUBLE'],
    ['left', 'left', 'right', 'right', 'left'],
    exports.map((each) => [
      each.name,
      each.state,
      formatBytes(each.sizeBytes),
      formatShare(each.presentBytes, each.sizeBytes),
      each.pid === null ? '' : trouble(each),
    ]),
  );
}

/** One line an export, with its counters. */
export function statusTable(exports: readonly KnownExport[]): string {
  return table(
    ['NAME', 'STATE', 'SIZE', 'PRESENT', 'ON DEMAND', 'BACKGROUND', 'SKIPPED', 'CLIENTS', 'TROUBLE'],
    ['left', 'left', 'right', 'right', 'right', 'right', 'right', 'right', 'left'],
    exports.map((each) => [
      each.name,
      each.state,
      formatBytes(each.sizeBytes),
      formatShare(each.presentBytes, each.sizeBytes),
      formatBytes(each.onDemandBytes),
      formatBytes(each.backgroundBytes),
      formatBytes(each.skippedBytes),
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

/** All about one export, one thing a line. */
export function statusDetails(each: KnownExport): string {
  const share = formatShare(each.presentBytes, each.sizeBytes);
  const lines: [string, string | null][] = [
    ['name', each.name],
    ['state', each.pid === null ? `${each.state}, not running` : `${each.state}, pid ${each.pid}`],
    ['identity', `${each.uuid}, generation ${each.generation}`],
    ['size', `${formatBytes(each.sizeBytes)} (${each.sizeBytes} bytes)`],
    ['present', `${formatBytes(each.presentBytes)}, ${share}`],
    ['on demand', formatBytes(each.onDemandBytes)],
    ['background', formatBytes(each.backgroundBytes)],
    ['skipped', formatBytes(each.skippedBytes)],
    ['takeover', takeover(each)],
    ['origin', each.origin],
    [
      'unreachable',
      each.originUnreachableSince === null
        ? null
        : `since ${each.originUnreachableSince}: ${each.originUnreachableReason ?? ''}`,
    ],
    ['timeout', timeout(each)],
    ['paused', each.copyPaused],
    ['bad', bad(each)],
    ['compared', compared(each)],
    ['lent to', each.lease === null ? null : `lease ${each.lease}`],
    [
      'moved to',
      each.movedAt === null ? null : `${each.movedTo || 'a host that gave no name'}, ${each.movedAt}`,
    ],
    ['clients', `${each.clients}, ${formatBytes(each.writtenBytes)} written`],
    ['image', each.image],
    ['socket', each.socket],
    ['error', each.error],
  ];
  return lines
    .filter(([, value]) => value !== null)
    .map(([key, value]) => `${key.padEnd(12)}${value}`)
    .join('\n');
}
