/**
 * The properties of one object on the bus, with PropertiesChanged for what changed.
 *
 * Counters move all the time: changes are gathered, and announced at most twice a second. A client that asks
 * gets the values of the moment.
 */
import { isDeepStrictEqual } from 'node:util';
import dbus from 'dbus-next';
import type { Properties, PropertyInterface } from './interfaces.ts';

/** Milliseconds between two PropertiesChanged of one object. */
const INTERVAL_MS = 500;

export class Announced {
  readonly #face: PropertyInterface;
  #values: Properties;
  /** What the bus knows. */
  #announced: Properties;
  #announcedAt = performance.now();
  #timer: NodeJS.Timeout | undefined;

  /** @param values as they are shown from the beginning, unannounced */
  constructor(face: PropertyInterface, values: Properties) {
    this.#face = face;
    this.#values = values;
    this.#announced = values;
    Object.assign(face, values);
  }

  get values(): Properties {
    return this.#values;
  }

  /** Shows these values at once, and announces soon what is new in them. */
  set(values: Properties): void {
    this.#values = values;
    Object.assign(this.#face, values);
    if (this.#timer !== undefined) return;
    const wait = this.#announcedAt + INTERVAL_MS - performance.now();
    if (wait <= 0) this.#announce();
    else this.#timer = setTimeout(() => this.#announce(), wait).unref();
  }

  /** Announces now what is still to be announced. */
  flush(): void {
    if (this.#timer !== undefined) this.#announce();
  }

  /** Nothing is announced any more. */
  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #announce(): void {
    this.close();
    const changed = Object.entries(this.#values).filter(
      ([name, value]) => !isDeepStrictEqual(value, this.#announced[name]),
    );
    if (changed.length === 0) return;
    this.#announced = this.#values;
    this.#announcedAt = performance.now();
    dbus.interface.Interface.emitPropertiesChanged(this.#face, Object.fromEntries(changed), []);
  }
}
