/**
 * The objects that we show on the bus, with org.freedesktop.DBus.ObjectManager over them and
 * PropertiesChanged for what changed.
 *
 * An object's counters move all the time: changes are gathered, and announced at most twice a second for each
 * object. A client that asks gets the values of the moment.
 */
import { isDeepStrictEqual } from 'node:util';
import dbus, { type MessageBus } from 'dbus-next';
import type { Properties, PropertyInterface } from './interfaces.ts';

/** Milliseconds between two PropertiesChanged of one object. */
const announceInterval = 500;

interface Entry {
  name: string;
  signatures: Readonly<Record<string, string>>;
  face: PropertyInterface;
  values: Properties;
  /** What the bus knows. */
  announced: Properties;
  announcedAt: number;
  timer: NodeJS.Timeout | undefined;
}

export interface NewObject {
  /** Of the interface, such as org.xnbd1.Export. */
  name: string;
  signatures: Readonly<Record<string, string>>;
  create: (name: string) => PropertyInterface;
}

type Variants = Record<string, dbus.Variant>;
type Interfaces = Record<string, Variants>;

class ObjectManager extends dbus.interface.Interface {
  managed: () => Record<string, Interfaces> = () => ({});

  GetManagedObjects(): Record<string, Interfaces> {
    return this.managed();
  }
  InterfacesAdded(path: string, interfaces: Interfaces): unknown[] {
    return [path, interfaces];
  }
  InterfacesRemoved(path: string, interfaces: string[]): unknown[] {
    return [path, interfaces];
  }
}
ObjectManager.configureMembers({
  methods: { GetManagedObjects: { outSignature: 'a{oa{sa{sv}}}' } },
  signals: {
    InterfacesAdded: { signature: 'oa{sa{sv}}' },
    InterfacesRemoved: { signature: 'oas' },
  },
});

function variants(signatures: Readonly<Record<string, string>>, values: Properties): Variants {
  return Object.fromEntries(
    Object.entries(signatures).map(([name, signature]) => [name, new dbus.Variant(signature, values[name])]),
  );
}

export class ObjectTree {
  readonly #connection: MessageBus;
  readonly #manager = new ObjectManager('org.freedesktop.DBus.ObjectManager');
  readonly #entries = new Map<string, Entry>();

  /** Exports the ObjectManager at `root`. */
  constructor(connection: MessageBus, root: string) {
    this.#connection = connection;
    this.#manager.managed = () =>
      Object.fromEntries(
        [...this.#entries].map(([path, { name, signatures, values }]) => [
          path,
          { [name]: variants(signatures, values) },
        ]),
      );
    connection.export(root, this.#manager);
  }

  has(path: string): boolean {
    return this.#entries.has(path);
  }

  /** Adds the object (InterfacesAdded) or changes it (PropertiesChanged, soon). */
  set(path: string, object: NewObject, values: Properties): void {
    const entry = this.#entries.get(path);
    if (entry === undefined) {
      const face = object.create(object.name);
      Object.assign(face, values);
      const { name, signatures } = object;
      this.#entries.set(path, {
        name,
        signatures,
        face,
        values,
        announced: values,
        announcedAt: performance.now(),
        timer: undefined,
      });
      this.#connection.export(path, face);
      this.#manager.InterfacesAdded(path, { [name]: variants(signatures, values) });
      return;
    }
    entry.values = values;
    Object.assign(entry.face, values);
    if (entry.timer !== undefined) return;
    const wait = entry.announcedAt + announceInterval - performance.now();
    if (wait <= 0) announce(entry);
    else entry.timer = setTimeout(announce, wait, entry).unref();
  }

  /** Takes the object away (InterfacesRemoved); nothing when there is none. */
  remove(path: string): void {
    const entry = this.#entries.get(path);
    if (entry === undefined) return;
    clearTimeout(entry.timer);
    this.#entries.delete(path);
    this.#connection.unexport(path, entry.face);
    this.#manager.InterfacesRemoved(path, [entry.name]);
  }

  /** Announces now what is still to be announced, so that a signal which follows is understood. */
  flush(): void {
    for (const entry of this.#entries.values()) if (entry.timer !== undefined) announce(entry);
  }

  /** Ends the timers; the objects stay until the connection ends. */
  close(): void {
    for (const entry of this.#entries.values()) clearTimeout(entry.timer);
    this.#entries.clear();
  }
}

function announce(entry: Entry): void {
  clearTimeout(entry.timer);
  entry.timer = undefined;
  const changed = Object.entries(entry.values).filter(
    ([name, value]) => !isDeepStrictEqual(value, entry.announced[name]),
  );
  if (changed.length === 0) return;
  entry.announced = entry.values;
  entry.announcedAt = performance.now();
  dbus.interface.Interface.emitPropertiesChanged(entry.face, Object.fromEntries(changed), []);
}
