/** What an administrator sees: units, the journal's fields and catalogue, and how exposed each service is. */
import { type Bed, onBoth, tell } from '../bed.ts';
import { EXPORT } from '../guest/guest.ts';
import type { Machine } from '../machine/machine.ts';
import type { Step } from '../step.ts';

/** The worst exposure that a unit may have, by `systemd-analyze security`. */
const EXPOSURE_LIMIT: Readonly<Record<string, number>> = {
  'xnbd-gateway.service': 2.0,
  [`xnbd-export@${EXPORT}.service`]: 2.0,
};

/** Fields that a line about a disk has. */
const FIELDS = ['PRIORITY', 'MESSAGE_ID', 'DOMAIN_NAME', 'DOMAIN_UUID', 'XNBD_EXPORT', 'XNBD_STATE'];

export const units: Step = {
  name: 'units',
  limitS: 120,
  onlyLooks: true,
  async run({ guest }) {
    const machine = await guest.where();
    tell(
      await machine.sh(
        'systemctl status --no-pager -n 0 xnbdd xnbd-gateway; systemctl list-units --no-legend "xnbd*"',
      ),
    );
    const unit = `xnbd-export@${EXPORT}.service`;
    const said = await machine.sh(`systemctl status --no-pager -n 5 ${unit}`);
    tell(said);
    if (!said.includes('xnbd.slice')) throw new Error(`${unit} is not in xnbd.slice`);
    const status = /Status: "(.*)"/.exec(said)?.[1];
    if (status === undefined) throw new Error(`${unit} tells no status`);
    return `${unit} runs in xnbd.slice: ${status}`;
  },
};

export const exposure: Step = {
  name: 'exposure',
  limitS: 180,
  onlyLooks: true,
  async run({ guest }) {
    const machine = await guest.where();
    const found = [];
    for (const unit of ['xnbdd.service', ...Object.keys(EXPOSURE_LIMIT)]) {
      const said = await machine.sh(`systemd-analyze security --no-pager ${unit}`, { check: false });
      const exposed = Number(/Overall exposure level.*?: (\d+\.\d+)/.exec(said)?.[1]);
      tell(said.split('\n').slice(-2).join('\n'));
      const limit = EXPOSURE_LIMIT[unit] ?? 10;
      if (!(exposed <= limit))
        throw new Error(`${unit} is exposed by ${exposed}; allowed is ${limit}\n${said}`);
      found.push(`${unit.replace('.service', '')} ${exposed}`);
    }
    return `systemd-analyze security: ${found.join(', ')}`;
  },
};

export const journal: Step = {
  name: 'journal',
  limitS: 180,
  onlyLooks: true,
  async run(bed) {
    const counts = await onBoth(bed, lifeOfDisk);
    const explained = await catalogue(bed);
    return `journalctl XNBD_EXPORT=${EXPORT}: ${counts.join(' and ')} lines; ${explained}`;
  },
};

async function lifeOfDisk(machine: Machine): Promise<number> {
  const lines = await machine.sh(`journalctl XNBD_EXPORT=${EXPORT} -o json --no-pager`);
  const entries = lines.split('\n').filter((line) => line !== '');
  const seen = new Set(entries.flatMap((line) => Object.keys(JSON.parse(line) as object)));
  const missing = FIELDS.filter((field) => !seen.has(field));
  if (missing.length > 0) throw new Error(`${machine.name}: no line of ${EXPORT} has ${missing.join(', ')}`);
  tell(await machine.sh(`journalctl XNBD_EXPORT=${EXPORT} --no-pager -n 8 -o short`));
  return entries.length;
}

async function catalogue({ machines: [a] }: Bed): Promise<string> {
  const known = (await a.sh('journalctl --list-catalog | grep -i xnbd || true')).split('\n');
  if (known[0] === '') throw new Error('the catalogue knows no message of xNBD');
  const explained = await a.sh(
    `journalctl -x XNBD_EXPORT=${EXPORT} --no-pager | grep -m 3 'Subject:' || true`,
  );
  tell(explained);
  if (explained === '') throw new Error('journalctl -x explains no line of the disk');
  return `${known.length} messages in the catalogue`;
}
