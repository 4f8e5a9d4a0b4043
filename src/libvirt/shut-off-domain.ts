/** A domain whose definition is to be changed: open only while it is shut off. */
import { openBus } from '../system/bus.ts';
import {
  type Driver,
  defineDomain,
  definitionXml,
  domainState,
  hasManagedSave,
  lookUpDomain,
  stateShutOff,
} from './calls.ts';

export interface ShutOffDomain {
  /** Its definition. */
  readonly xml: string;
  /** @throws Error when it runs by now, or its definition is another than `before`. */
  checkUnchanged(before: string): Promise<void>;
  /** Its definition as libvirt has it now. @throws Error when it runs by now. */
  read(): Promise<string>;
  /** Replaces the definition. @throws Error with libvirt's reason. */
  define(xml: string): Promise<void>;
  close(): void;
}

/**
 * Opens the domain of that name over libvirt-dbus. `address`: 'system' or that of its bus.
 * @throws Error, one line, when there is none, it runs, or libvirt cannot be asked.
 */
export async function openShutOffDomain(
  address: string,
  name: string,
  driver: Driver = 'QEMU',
): Promise<ShutOffDomain> {
  const bus = await openBus(address, () => undefined).catch((error: unknown) => {
    throw new Error(`libvirt-dbus cannot be reached: ${(error as Error).message}`);
  });
  const read = async (): Promise<string> => {
    const path = await lookUpDomain(bus, driver, name);
    if ((await domainState(bus, path)) !== stateShutOff) {
      throw new Error(`domain ${name} runs; shut it down first (virsh shutdown ${name})`);
    }
    if (await hasManagedSave(bus, path)) {
      throw new Error(
        `domain ${name} is saved and would go on with the disks of then; start it and shut it down, or virsh managedsave-remove ${name}`,
      );
    }
    return await definitionXml(bus, path);
  };
  try {
    return {
      xml: await read(),
      async checkUnchanged(before) {
        if ((await read()) === before) return;
        throw new Error(
          `the definition of ${name} was changed meanwhile; nothing was done, run the command again`,
        );
      },
      read,
      define: (xml) => defineDomain(bus, driver, xml),
      close: () => bus.close(),
    };
  } catch (error) {
    bus.close();
    throw new Error(explain(error as Error, name));
  }
}

function explain(error: Error, name: string): string {
  if ('type' in error && error.type === 'org.freedesktop.DBus.Error.ServiceUnknown') {
    return 'libvirt-dbus is not on the bus; install it (Debian and Fedora package libvirt-dbus)';
  }
  return /not found|no domain/i.test(error.message)
    ? `there is no domain ${name}; see virsh list --all`
    : error.message;
}
