/**
 * The two ends of a move, made of the product's own parts in this process: what the crash checker records,
 * and opens again after a crash.
 */
import { join } from 'node:path';
import { OriginConnection } from '../../../src/client/connection.ts';
import type { Disk } from '../../../src/export/disk.ts';
import { Lender } from '../../../src/export/lending/lender.ts';
import { type RunningExport, type Served, serve } from '../../../src/export/serve.ts';
import { openTarget } from '../../../src/export/target.ts';
import { Command, CommandFlag, Errno } from '../../../src/nbd/constants.ts';
import { parseNbdUri } from '../../../src/nbd/uri.ts';
import { openServedProxy, type ServedProxy } from '../../../src/relocation/served-proxy.ts';

export const NAME = 'disk';

/** Where everything is: `root` is recorded, `run` has the sockets. */
export interface Places {
  root: string;
  run: string;
}

export function placesOf({ root, run }: Places) {
  return {
    a: {
      image: join(root, 'a/images/disk.img'),
      stateDir: join(root, 'a/exports/disk'),
      socket: join(run, 'a'),
    },
    b: {
      image: join(root, 'b/images/disk.img'),
      stateDir: join(root, 'b/exports/disk'),
      socket: join(run, 'b'),
    },
  };
}

/** What is done to a disk opened for the crash checker, between it and its sessions. */
export type Plant = (served: Served) => Served;

export const asItIs: Plant = (served) => served;

export interface Running {
  served: Served;
  running: RunningExport;
}

export interface Source extends Running {
  uri: string;
}

/** The origin: a target with its image. @param delay milliseconds that a read takes */
export async function openSource(places: Places, plant: Plant, delay: () => number): Promise<Source> {
  const { image, stateDir, socket } = placesOf(places).a;
  const served = plant(await openTarget({ name: NAME, image, stateDir, readOnly: false }));
  const slow = { ...served, disk: slowed(served.disk, delay) };
  return { served, running: await serve(serveOptions(socket), slow), uri: uriOf(socket) };
}

/** A step of the lender that is under way ends first: nothing of this source touches the files afterwards. */
export async function closeSource({ running }: Source): Promise<void> {
  await running.stop();
  const nobody = { peer: null, destroy: () => undefined };
  await Lender.prototype.retire.call(running.export.lender, nobody);
}

export interface Destination extends Running {
  served: ServedProxy;
}

export async function openDestination(places: Places, plant: Plant): Promise<Destination> {
  const { image, stateDir, socket } = placesOf(places).b;
  const proxy = await openServedProxy({
    name: NAME,
    image,
    stateDir,
    origin: uriOf(placesOf(places).a.socket),
  });
  const served = plant(proxy) as ServedProxy;
  const running = await serve(serveOptions(socket), served);
  return { served, running };
}

function serveOptions(socket: string) {
  return { socket, ctl: `${socket}.ctl`, readOnly: false, sourceGone: 'told' as const };
}

function uriOf(socket: string): string {
  return `nbd+unix:///${NAME}?socket=${socket}`;
}

/** Reads take their time, so that a relocation has a middle. */
function slowed(disk: Disk, delay: () => number): Disk {
  return {
    size: disk.size,
    read: (into, offset, done) => {
      const time = delay();
      if (time <= 0) disk.read(into, offset, done);
      else setTimeout(() => disk.read(into, offset, done), time);
    },
    write: (...args) => disk.write(...args),
    flush: (...args) => disk.flush(...args),
    trim: (...args) => disk.trim(...args),
    zero: (...args) => disk.zero(...args),
    cache: (...args) => disk.cache(...args),
    extents: (...args) => disk.extents(...args),
  };
}

export type ChangeKind = 'write' | 'trim' | 'zero' | 'zero, allocated';
type Answer = (errno: number) => void;

/** Who uses a disk. */
export interface Guest {
  change(kind: ChangeKind, from: number, data: Buffer, fua: boolean, done: Answer): void;
  flush(done: Answer): void;
  read(into: Buffer, from: number, done: Answer): void;
  leave(): void;
}

/** Over sockets, several connections, each request over one of them. */
export async function guestOver(socket: string, connections: number, random: () => number): Promise<Guest> {
  const all: OriginConnection[] = [];
  for (let count = 0; count < connections; count++)
    all.push(await OriginConnection.connect({ address: parseNbdUri(uriOf(socket)) }));
  const any = () => all[Math.floor(random() * all.length)]!;
  return {
    change: (kind, from, data, fua, done) => {
      const flags = fua ? CommandFlag.FUA : 0;
      const complete = { complete: done };
      if (kind === 'write') any().write(data, from, flags, complete);
      else if (kind === 'trim') any().command(Command.TRIM, from, data.length, flags, complete);
      else {
        const noHole = kind === 'zero' ? 0 : CommandFlag.NO_HOLE;
        any().command(Command.WRITE_ZEROES, from, data.length, flags | noHole, complete);
      }
    },
    flush: (done) => any().command(Command.FLUSH, 0, 0, 0, { complete: done }),
    read: (into, from, done) => any().read(into, from, { complete: done }),
    leave: () => {
      for (const each of all) each.destroy();
    },
  };
}

/** Of a disk that has moved away. */
export const refusedGuest: Guest = {
  change: (_kind, _from, _data, _fua, done) => done(Errno.ESHUTDOWN),
  flush: (done) => done(Errno.ESHUTDOWN),
  read: (_into, _from, done) => done(Errno.ESHUTDOWN),
  leave: () => undefined,
};

/** Straight at the disk: it sees an answer at the very moment at which it is given. */
export function guestOn(disk: Disk): Guest {
  return {
    change: (kind, from, data, fua, done) => {
      const complete = { complete: done };
      if (kind === 'write') {
        // The disk may use the data during the call only.
        const lent = Buffer.from(data);
        disk.write(lent, from, fua, complete);
        lent.fill(0xdd);
      } else if (kind === 'trim') disk.trim(from, data.length, fua, complete);
      else disk.zero(from, data.length, { fua, noHole: kind !== 'zero', fast: false }, complete);
    },
    flush: (done) => disk.flush({ complete: done }),
    read: (into, from, done) => disk.read(into, from, { complete: done }),
    leave: () => undefined,
  };
}

/** The whole disk. @throws Error with the errno, or when it does not come */
export async function readAll(disk: Disk, limitMs: number): Promise<Buffer> {
  const into = Buffer.alloc(disk.size, 0xee);
  let timer: NodeJS.Timeout | undefined;
  const read = new Promise<void>((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`a read does not come within ${limitMs} ms`)), limitMs);
    disk.read(into, 0, {
      complete: (errno) => (errno === 0 ? resolve() : reject(new Error(`a read fails with ${errno}`))),
    });
  });
  await read.finally(() => clearTimeout(timer));
  return into;
}
