/** A target served within the test's own process, in a directory of its own. */
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Disk } from '../../../src/export/disk.ts';
import { type RunningExport, type Served, type ServeOptions, serve } from '../../../src/export/serve.ts';
import { openTarget } from '../../../src/export/target.ts';

export interface TestTarget {
  running: RunningExport;
  served: Served;
  directory: string;
  image: string;
  socket: string;
  ctl: string;
  /** Stops it and starts it again. */
  restart(): Promise<void>;
  /** Stops it and removes its directory. */
  remove(): Promise<void>;
}

export interface TestTargetOptions extends Partial<Pick<ServeOptions, 'readOnly' | 'sourceGone'>> {
  sizeBytes?: number;
  /** Changes what is served before it is. */
  alter?: (served: Served) => Served;
}

export async function serveTarget(options: TestTargetOptions = {}): Promise<TestTarget> {
  const directory = await mkdtemp(join(tmpdir(), 'xnbd-export-'));
  const image = join(directory, 'disk.img');
  await writeFile(image, '');
  await truncate(image, options.sizeBytes ?? 16 * 1024 * 1024);
  const readOnly = options.readOnly ?? false;
  const socket = join(directory, 'd.sock');
  const ctl = `${socket}.ctl`;
  const start = async () => {
    const opened = await openTarget({ name: 'd', image, stateDir: `${image}.xnbd`, readOnly });
    const served = options.alter?.(opened) ?? opened;
    const running = await serve(
      { socket, ctl, readOnly, sourceGone: options.sourceGone ?? 'disconnect' },
      served,
    );
    return { served, running };
  };
  const target: TestTarget = {
    ...(await start()),
    directory,
    image,
    socket,
    ctl,
    restart: async () => {
      await target.running.stop();
      Object.assign(target, await start());
    },
    remove: async () => {
      await target.running.stop();
      await rm(directory, { recursive: true });
    },
  };
  return target;
}

/** The disk, some of its methods replaced. */
export function altered(disk: Disk, changes: Partial<Disk>): Disk {
  return {
    size: disk.size,
    read: (...args) => disk.read(...args),
    write: (...args) => disk.write(...args),
    flush: (...args) => disk.flush(...args),
    trim: (...args) => disk.trim(...args),
    zero: (...args) => disk.zero(...args),
    cache: (...args) => disk.cache(...args),
    extents: (...args) => disk.extents(...args),
    ...changes,
  };
}
