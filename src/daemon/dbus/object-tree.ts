/**
 * The objects that we show on the bus, with org.freedesktop.DBus.ObjectManager over them and
 * PropertiesChanged for what changed (announced.ts).
 */
import dbus, { type MessageBus } from 'dbus-next';
import { Announced } from './announced.ts';
import type { Properties, PropertyInterface } from './interfaces.ts';

interface Entry {
  name: string;
  signatures: Readonly<Record<string, string>>;
  face: PropertyInterface;
  announced: Announced;
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
        [...this.#entries].map(([path, { name, signatures, announced }]) => [
          path,
          { [name]: variants(signatures, announced.values) },
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
    if (entry !== undefined) {
      entry.announced.set(values);
      return;
    }
    const { name, signatures, create } = object;
    const face = create(name);
    this.#entries.set(path, { name, signatures, face, announced: new Announced(face, values) });
    this.#connection.export(path, face);
    this.#manager.InterfacesAdded(path, { [name]: variants(signatures, values) });
  }

  /** Takes the object away (InterfacesRemoved); nothing when there is none. */
  remove(path: string): void {
    const entry = this.#entries.get(path);
    if (entry === undefined) return;
    entry.announced.close();
    this.#entries.delete(path);
    this.#connection.unexport(path, entry.face);
    this.#manager.InterfacesRemoved(path, [entry.name]);
  }

  /** Announces now what is still to be announced, so that a signal which follows is understood. */
  flush(): void {
    for (const { announced } of this.#entries.values()) announced.flush();
  }

  /** Ends the timers; the objects stay until the connection ends. */
  close(): void {
    for (const { announced } of this.#entries.values()) announced.close();
    this.#entries.clear();
  }
}
