/**
 * What a guest opens as its disk, between the export and the hypervisor: attached before the guest starts,
 * detached when it has ended, taken up again by a daemon that comes back.
 */
import type { Exports } from '../exports/exports.ts';

export interface Devices {
  /**
   * Gives the disk of an export that runs its device.
   * @returns the path that the guest's hypervisor opens. @throws Error, one line, when there is none to be
   * had.
   */
  attach(name: string): Promise<string>;
  /** The guest has let go of the disk. Nothing happens when the disk has no device. */
  detach(name: string): Promise<void>;
  /** Takes up the devices that an earlier daemon attached. The exports have been found by then. */
  load(): Promise<void>;
}

/**
 * For QEMU, which speaks NBD itself: the device is the export's own socket, and comes and goes with the
 * export.
 */
export class UnixSockets implements Devices {
  readonly #exports: Exports;

  constructor(exports: Exports) {
    this.#exports = exports;
  }

  attach(name: string): Promise<string> {
    return Promise.resolve(this.#exports.paths(name).socket);
  }

  detach(): Promise<void> {
    return Promise.resolve();
  }

  load(): Promise<void> {
    return Promise.resolve();
  }
}
