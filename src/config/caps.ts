/**
 * Which rates hold now, for all disks that arrive on a host and for those from each peer: what an
 * administrator has chosen with xnbdctl, else the schedule, else the plain rate of xnbd.conf.
 */
import type { Address } from './address.ts';
import type { Cap, Config, Peer } from './config.ts';
import { orNone } from './notation.ts';
import { rate } from './rate.ts';
import { formatWindow, openWindow } from './rate-schedule.ts';

/** What an administrator has chosen for the host, until that is undone; rates in bit/s, null: no cap. */
export interface Choices {
  /** Left out: not chosen. */
  readonly rate?: number | null;
  readonly peers: ReadonlyMap<string, number | null>;
  /** All disks, those that arrive later too. */
  readonly paused: boolean;
}

export interface CapNow {
  /** bit/s; null: no cap. */
  readonly rate: number | null;
  /** Where that is said. */
  readonly said: string;
}

export interface CapsNow {
  readonly host: CapNow;
  /** By the name of the peer (`peerAt`). */
  readonly peers: ReadonlyMap<string, CapNow>;
}

export function capsNow(
  { relocation, peerRates }: Pick<Config, 'relocation' | 'peerRates'>,
  choices: Choices,
  now: Date,
): CapsNow {
  const host = { rate: relocation.rate, schedule: relocation['rate-schedule'] };
  const names = new Set([...peerRates.keys(), ...choices.peers.keys()]);
  return {
    host: capNow(host, choices.rate, now),
    peers: new Map(
      [...names].map((name) => [name, capNow(peerRates.get(name), choices.peers.get(name), now)]),
    ),
  };
}

/** A cap, a pause or a queue holds for disks that arrive now. */
export function someCapHolds(
  config: Pick<Config, 'relocation' | 'peerRates'>,
  choices: Choices,
  now: Date,
): boolean {
  const { host, peers } = capsNow(config, choices, now);
  const rates = [host, ...peers.values()].map(({ rate: bits }) => bits);
  return choices.paused || config.relocation['max-arriving'] !== null || rates.some((bits) => bits !== null);
}

function capNow(cap: Cap | undefined, chosen: number | null | undefined, now: Date): CapNow {
  if (chosen !== undefined) return { rate: chosen, said: 'xnbdctl limit' };
  const open = openWindow(cap?.schedule ?? [], now);
  if (open !== undefined) return { rate: open.rate, said: `rate-schedule, ${formatWindow(open)}` };
  return { rate: cap?.rate ?? null, said: 'xnbd.conf' };
}

/** What the peer at an address goes by: its name in [peers], else its host name. */
export function peerAt(peers: readonly Peer[], { host, port }: Address): string {
  const known = peers.find((peer) => peer.host.toLowerCase() === host.toLowerCase() && peer.port === port);
  return known?.name ?? host.toLowerCase();
}

/** As xnbd.conf has it. @param bits a second; null: none */
export const formatCap = (bits: number | null): string => orNone(rate).format(bits);
/** A rate that an administrator chooses; undefined: `default`, no choice. @throws Error of one line */
export function chosenCap(text: string): number | null | undefined {
  const bits = parseCap(text);
  if (bits !== undefined || text === 'default') return bits;
  throw new Error(`rate = ${text.slice(0, 40)}: allowed is ${orNone(rate).allowed}, or default`);
}
/** @returns undefined for what is no rate */
export const parseCap = (text: string): number | null | undefined => orNone(rate).parse(text);
