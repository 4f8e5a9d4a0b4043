/** What a host shows of its exports, to those who ask on D-Bus and to those who ask xnbdctl. */
import dbus from 'dbus-next';
import type { ExportStatus } from '../../../src/control/status.ts';
import type { Host } from '../libvirt/host.ts';

/** What stays the same of an export while daemons come and go, by name. */
export type Shown = Record<string, { uuid: string; generation: number; pid: number }>;

/** As `xnbdctl list --json` tells it, which needs no daemon. */
export async function shownByCommand(host: Host): Promise<Shown> {
  const { stdout } = await host.exec(['xnbdctl', 'list', '--json']);
  const exports = JSON.parse(stdout) as ExportStatus[];
  return Object.fromEntries(
    exports.map(({ name, uuid, generation, pid }) => [name, { uuid, generation, pid }]),
  );
}

/** As the daemon tells it on D-Bus. */
export async function shownOnBus(host: Host): Promise<Shown> {
  const bus = dbus.sessionBus({ busAddress: host.busAddress });
  try {
    await new Promise((resolve, reject) => {
      bus.once('connect', resolve);
      bus.once('error', reject);
    });
    const call = new dbus.Message({
      destination: 'org.xnbd1',
      path: '/org/xnbd1',
      interface: 'org.freedesktop.DBus.ObjectManager',
      member: 'GetManagedObjects',
    });
    const reply = await bus.call(call);
    const objects = reply?.body[0] as Record<string, Record<string, Properties>>;
    const exports = Object.values(objects).flatMap((interfaces) =>
      'org.xnbd1.Export' in interfaces ? [interfaces['org.xnbd1.Export']] : [],
    );
    return Object.fromEntries(exports.map(identity));
  } finally {
    bus.disconnect();
  }
}

type Properties = Record<'Name' | 'Uuid' | 'Generation' | 'Pid', { value: unknown }>;

function identity({ Name, Uuid, Generation, Pid }: Properties): [string, Shown[string]] {
  return [
    String(Name.value),
    { uuid: String(Uuid.value), generation: Number(Generation.value), pid: Number(Pid.value) },
  ];
}
