/** What the soak prints: a line a move, and in the end what grew and what did not. */
import Table from 'cli-table3';
import type { Census, Holding } from './census.ts';
import { judge, MEMORY_ALLOWANCE, type Verdict } from './growth.ts';

export interface Move {
  number: number;
  from: string;
  to: string;
  /** Mbit/s of the link; undefined: as fast as it goes. */
  rate: number | undefined;
  /** Seconds that `virsh migrate` took, and from its end until every block had arrived. */
  migrated: number;
  arrived: number;
  /** Requests of the guest so far. */
  writes: number;
  reads: number;
  /** What its guest, or the comparison of its disks, found wrong during this move. */
  errors: string[];
  /** By host. */
  census: Record<string, Census>;
}

const COLUMNS = [
  'move',
  'way',
  'Mbit/s',
  'virsh',
  'disks',
  'writes',
  'reads',
  'wrong',
  'host',
  'xnbdd',
  'gateway',
  'exports',
  'files',
];
const WIDTHS = [4, 6, 7, 7, 7, 8, 8, 5, 5, 16, 16, 20, 5];

const line = (words: readonly (string | number)[]): string =>
  words.map((word, at) => String(word).padStart(WIDTHS[at]!)).join(' ');

export function header(): string {
  return `${line(COLUMNS)}\n${' '.repeat(68)}PSS MiB / descriptors (exports: processes)`;
}

/** Two lines: what moved, with the host that the guest is at now; then the other host. */
export function moveLines(move: Move): string {
  const { number, from, to, rate, migrated, arrived, writes, reads, errors, census } = move;
  const told = [
    number,
    `${from}→${to}`,
    rate ?? 'free',
    `${migrated.toFixed(1)} s`,
    `${arrived.toFixed(1)} s`,
  ];
  const counted = [...told, writes, reads, errors.length];
  return [to, from]
    .map((name, at) => line([...(at === 0 ? counted : counted.map(() => '')), name, ...held(census[name]!)]))
    .join('\n');
}

function held({ xnbdd, gateway, exports, files }: Census): (string | number)[] {
  const text = ({ pss, descriptors }: Holding): string => `${pss.toFixed(1)} / ${descriptors}`;
  return [text(xnbdd), text(gateway), `${text(exports)} (${exports.processes})`, files.length];
}

/** One host, while the guest is there or while it is not: what a host holds depends on that. */
export interface Judged {
  where: string;
  /** Of a program, or of the files. */
  what: string;
  verdicts: Verdict[];
}

export function judgeMoves(moves: readonly Move[]): Judged[] {
  const destinations = [...new Set(moves.map(({ to }) => to))];
  return destinations.flatMap((to) => {
    const those = moves.filter((move) => move.to === to);
    return Object.keys(those[0]!.census).flatMap((host) => {
      const series = (value: (census: Census) => number): number[] =>
        those.map(({ census }) => value(census[host]!));
      const where = `${host}, guest ${host === to ? 'here' : 'away'}`;
      const programs = (['xnbdd', 'gateway', 'exports'] as const).map((what): Judged => {
        const of = (each: keyof Holding, allowance: number): Verdict =>
          judge(
            each,
            series((census) => census[what][each]),
            allowance,
          );
        const memory = [of('pss', MEMORY_ALLOWANCE), of('rss', MEMORY_ALLOWANCE)];
        return {
          where,
          what,
          verdicts: [...memory, of('descriptors', 0), of('sockets', 0), of('processes', 0)],
        };
      });
      const files = judge(
        'files',
        series((census) => census.files.length),
        0,
      );
      return [...programs, { where, what: 'files', verdicts: [files] }];
    });
  });
}

/** What grew, in words. */
export function growing(found: readonly Judged[]): string[] {
  return found.flatMap(({ where, what, verdicts }) =>
    verdicts
      .filter(({ grows }) => grows)
      .map(
        ({ what: each, first, last }) =>
          `${what} on ${where}: ${each} ${first.toFixed(1)} -> ${last.toFixed(1)}`,
      ),
  );
}

/**
 * A row for each program and host: of each number the median of the first third after the warm-up, and of the
 * last.
 */
export function verdictTable(found: readonly Judged[]): string {
  const table = new Table({
    head: ['host', '', 'PSS MiB', 'RSS MiB', 'descriptors', 'sockets', 'processes', 'files'],
    style: { head: [], border: [], compact: true },
  });
  for (const { where, what, verdicts } of found) {
    const cell = (name: string): string => {
      const verdict = verdicts.find((each) => each.what === name);
      if (verdict === undefined) return '';
      const digits = name === 'pss' || name === 'rss' ? 1 : 0;
      const ends = `${verdict.first.toFixed(digits)} -> ${verdict.last.toFixed(digits)}`;
      return verdict.grows === true ? `${ends} GROWS` : verdict.grows === null ? `${ends} ?` : ends;
    };
    table.push([where, what, ...['pss', 'rss', 'descriptors', 'sockets', 'processes', 'files'].map(cell)]);
  }
  return table.toString();
}
