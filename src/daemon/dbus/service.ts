/**
 * org.xnbd1 on the bus: what the daemon shows of its exports and relocations, and the methods of an export.
 * Reading is for everyone whom the bus's policy lets (etc/org.xnbd1.conf); the methods are for root and the
 * daemon's own user, whatever the policy says.
 */
import dbus, { type Message } from 'dbus-next';
import { type BusMethod, busMethods } from '../../control/methods.ts';
import type { ExportStatus, VerificationStatus } from '../../control/status.ts';
import { log } from '../../log/log.ts';
import { type Bus, errorName, openBus, theBus } from '../../system/bus.ts';
import {
  type CompletedDisk,
  ExportInterface,
  exportPath,
  exportProperties,
  exportSignatures,
  ManagerInterface,
  RelocationInterface,
  type RelocationStatus,
  relocationPath,
  relocationProperties,
  relocationSignatures,
  rootPath,
} from './interfaces.ts';
import { ObjectTree } from './object-tree.ts';

const busName = 'org.xnbd1';
const managerName = 'org.xnbd1.Manager';
const exportName = 'org.xnbd1.Export';

export interface DBusServiceOptions {
  /** 'system', or the address of a bus. */
  address: string;
  version: string;
  /** Carries out a method of an export; what it throws goes to the caller, its message as one line. */
  call: (name: string, method: BusMethod) => Promise<void>;
  /**
   * The bus has gone away: nothing is shown any more, and the service manager should start the daemon again.
   */
  onClosed: (reason: string) => void;
}

export class DBusService {
  readonly #bus: Bus;
  readonly #options: DBusServiceOptions;
  readonly #tree: ObjectTree;
  readonly #manager = new ManagerInterface(managerName);
  /** Names of the exports by their object path. */
  readonly #exports = new Map<string, string>();

  private constructor(bus: Bus, options: DBusServiceOptions) {
    this.#bus = bus;
    this.#options = options;
    this.#tree = new ObjectTree(bus.connection, rootPath);
    Object.assign(this.#manager, { Version: options.version });
    bus.connection.export(rootPath, this.#manager);
    bus.connection.addMethodHandler((message: Message) => this.#intercept(message));
  }

  /** Connects, shows the manager and takes the name org.xnbd1.
   * @throws Error when there is no bus, or it does not give us the name. */
  static async connect(options: DBusServiceOptions): Promise<DBusService> {
    const bus = await openBus(options.address, options.onClosed);
    try {
      const service = new DBusService(bus, options);
      await requestName(bus);
      return service;
    } catch (error) {
      bus.close();
      throw error;
    }
  }

  /** Shows the export, or what changed of it. `domain`: whose disk it is. */
  setExport(status: ExportStatus, domain = ''): void {
    const path = exportPath(status.name);
    this.#exports.set(path, status.name);
    this.#tree.set(
      path,
      { name: exportName, signatures: exportSignatures, create: (name) => new ExportInterface(name) },
      exportProperties(status, domain),
    );
  }

  removeExport(name: string): void {
    this.#exports.delete(exportPath(name));
    this.#tree.remove(exportPath(name));
  }

  /** Shows the relocation, or what changed of it. */
  setRelocation(status: RelocationStatus): void {
    this.#tree.set(
      relocationPath(status.uuid),
      {
        name: 'org.xnbd1.Relocation',
        signatures: relocationSignatures,
        create: (name) => new RelocationInterface(name),
      },
      relocationProperties(status),
    );
  }

  removeRelocation(uuid: string): void {
    this.#tree.remove(relocationPath(uuid));
  }

  relocationStarted({ uuid, domain, domainUuid }: RelocationStatus): void {
    this.#tree.flush();
    this.#manager.RelocationStarted(relocationPath(uuid), domain, domainUuid);
  }

  relocationCompleted({ uuid, domain, domainUuid }: RelocationStatus, disks: readonly CompletedDisk[]): void {
    this.#tree.flush();
    this.#manager.RelocationCompleted(relocationPath(uuid), domain, domainUuid, disks);
  }

  relocationFailed({ uuid, domain, domainUuid }: RelocationStatus, reason: string): void {
    this.#tree.flush();
    this.#manager.RelocationFailed(relocationPath(uuid), domain, domainUuid, reason);
  }

  originUnreachable({ name, origin, originUnreachableReason }: ExportStatus): void {
    this.#tree.flush();
    this.#manager.OriginUnreachable(exportPath(name), name, origin ?? '', originUnreachableReason ?? '');
  }

  originReachable({ name, origin }: ExportStatus): void {
    this.#tree.flush();
    this.#manager.OriginReachable(exportPath(name), name, origin ?? '');
  }

  verificationFailed({ name, error }: ExportStatus, { different, differentBytes }: VerificationStatus): void {
    this.#tree.flush();
    const ranges = different.map(({ offset, length }) => [BigInt(offset), BigInt(length)] as const);
    this.#manager.VerificationFailed(exportPath(name), name, BigInt(differentBytes), ranges, error ?? '');
  }

  /** Leaves the bus. */
  close(): void {
    this.#tree.close();
    this.#bus.close();
  }

  /**
   * Takes the calls that dbus-next may not have: those that need to know the caller, and Set, which it would
   * obey although it refuses it.
   */
  #intercept(message: Message): boolean {
    if (message.interface === 'org.freedesktop.DBus.Properties' && message.member === 'Set') {
      this.#fail(
        message,
        'org.freedesktop.DBus.Error.PropertyReadOnly',
        'properties of org.xnbd1 are read-only',
      );
      return true;
    }
    const name = this.#exports.get(message.path);
    if (message.interface !== exportName || name === undefined) return false;
    const method = busMethods.get(message.member);
    if (method === undefined) return false;
    void this.#answer(message, name, method);
    return true;
  }

  async #answer(message: Message, name: string, method: BusMethod): Promise<void> {
    try {
      if (message.signature) {
        this.#fail(message, 'org.freedesktop.DBus.Error.InvalidArgs', `${message.member} takes no arguments`);
        return;
      }
      const [uid] = await this.#bus.call({
        ...theBus,
        member: 'GetConnectionUnixUser',
        signature: 's',
        body: [message.sender],
      });
      if (uid !== 0 && uid !== process.getuid?.()) {
        log.warning(`D-Bus: user ${uid} asked for ${message.member} of export ${name}: refused`, {
          export: name,
        });
        this.#fail(
          message,
          'org.freedesktop.DBus.Error.AccessDenied',
          `${message.member} of export ${name} is for root only; user ${uid} asked`,
        );
        return;
      }
      await this.#options.call(name, method);
      this.#bus.connection.send(dbus.Message.newMethodReturn(message, '', []));
    } catch (error) {
      this.#fail(message, 'org.xnbd1.Error.Failed', (error as Error).message);
    }
  }

  #fail(message: Message, errorName: string, text: string): void {
    this.#bus.connection.send(
      new dbus.Message({
        type: dbus.MessageType.ERROR,
        destination: message.sender,
        // The types say string; on the wire, and in the library, it is the number of the call.
        replySerial: message.serial as unknown as string,
        errorName,
        signature: 's',
        body: [text],
      }),
    );
  }
}

async function requestName(bus: Bus): Promise<void> {
  let answer: number;
  try {
    answer = await bus.connection.requestName(busName, dbus.NameFlag.DO_NOT_QUEUE);
  } catch (error) {
    if (errorName(error) === 'org.freedesktop.DBus.Error.AccessDenied') {
      throw new Error(
        `the bus does not let user ${process.getuid?.()} own ${busName}: install etc/org.xnbd1.conf in /etc/dbus-1/system.d and run as root`,
      );
    }
    throw error;
  }
  if (answer !== dbus.RequestNameReply.PRIMARY_OWNER && answer !== dbus.RequestNameReply.ALREADY_OWNER) {
    throw new Error(`${busName} is owned by another process on this bus: stop the other xnbdd first`);
  }
}
