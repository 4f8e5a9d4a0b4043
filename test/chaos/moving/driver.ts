/**
 * Who moves the disks: an administrator by hand (by-hand.ts), or xnbdd on each host, called by the hooks of
 * libvirt (by-daemon.ts).
 */
import type { ChaosHost } from './host.ts';
import type { Stay } from './stay.ts';

/** Of a wait for what must come about, whatever was killed meanwhile. */
export const PATIENCE_MS = 60_000;

/** An arrival that did not come about: it may be tried again. Any other error is a fault. */
export class Refused extends Error {}

export interface Driver {
  /** The disk, at rest at its first host. */
  begin(host: ChaosHost, content: Buffer): Promise<Stay>;
  /** The disk stands by at the next host. @throws Refused when it does not; then nothing is left there. */
  arrive(from: Stay, to: ChaosHost): Promise<Stay>;
  /** A move is given up in standby. Resolves when nothing is left of it. */
  giveUp(stay: Stay): Promise<void>;
  /** The guest has left this host for the next. */
  guestLeft(stay: Stay): Promise<void>;
  /**
   * kill -9. By hand it is started again after `lasts` ms; the daemon does so on its own. @returns false:
   * nobody was there.
   */
  kill(stay: Stay, lasts: number): Promise<boolean>;
  /** A new process takes the export over: no connection breaks. @returns false: it was refused, or none was there. */
  restart(stay: Stay): Promise<boolean>;
  /**
   * The disk has gone on for good: resolves when its origin's role is over here, too, and only what belongs
   * there is left.
   */
  retired(stay: Stay): Promise<void>;
  /** The guest ends, and with it the export. */
  end(stay: Stay): Promise<void>;
  /** The story has broken off: what ends now is not started again. */
  abort(): void;
}
