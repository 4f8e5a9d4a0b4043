/**
 * Certificates for both machines, as docs/tls.md says: by a CA that xNBD makes, then by openssl. The commands are those of the
 * document, so that it is tried, too.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Bed, onBoth, TOP, tell } from '../bed.ts';
import type { Machine } from '../machine/machine.ts';
import type { Step } from '../step.ts';

export const ownCa: Step = {
  name: 'own-ca',
  limitS: 300,
  async run(bed) {
    const [a, b] = bed.machines;
    await onBoth(bed, (machine) => configure(machine, machine === a ? b : a));
    const [init, host, , take] = (await commandsOf('docs/tls.md', 'xnbdctl pki init')).split('\n');
    tell(await a.sh(`set -e; cd /root; ${init}\n${host}`));
    await send(a, '/root/b.example.pem', b);
    tell(await b.sh(`set -e; cd /root; ${take}\nrm b.example.pem`));
    await checked(bed);
    await onBoth(bed, (machine) => machine.sh('rm -r /etc/xnbd/pki'));
    return `${init}; ${host}; ${take}: xnbdctl pki check: all is well on both`.replaceAll(/\s*#[^;:]*/g, '');
  },
};

export const certificates: Step = {
  name: 'certificates',
  limitS: 300,
  async run(bed) {
    const [a, b] = bed.machines;
    const commands = await commandsOf('docs/tls.md', 'openssl');
    const forB = commands.replaceAll('a.example', 'b.example').replaceAll(/\ba\.(csr|ext)/g, 'b.$1');
    const withoutCa = forB.slice(forB.indexOf('openssl', forB.indexOf('ca-cert.pem')));
    for (const [host, script] of [
      ['a', commands],
      ['b', withoutCa],
    ] as const)
      await a.sh(
        `mkdir -p /root/ca/${host} && cd /root/ca && { ${script}\n} 2>/dev/null && cp ca-cert.pem server-*.pem ${host}/`,
      );
    await a.sh('cd /root/ca && tar cf /root/b.tar -C b . && mkdir -p /etc/xnbd/pki && cp a/* /etc/xnbd/pki/');
    await send(a, '/root/b.tar', b);
    await b.sh('mkdir -p /etc/xnbd/pki && tar xf /root/b.tar --no-same-owner -C /etc/xnbd/pki');
    await checked(bed);
    const forLibvirt = await commandsOf('docs/tls.md', 'cd /etc/xnbd/pki');
    await onBoth(bed, (machine) => machine.sh(`set -e; ${forLibvirt}`));
    await checked(bed);
    // The keys are root's alone now, and the gateways' copies of them a minute old at most.
    await onBoth(bed, (machine) => machine.sh('systemctl restart xnbd-gateway'));
    await a.sh(`virsh -c qemu+tls://${b.host}/system -q list`);
    return 'made by openssl; found in /etc/xnbd/pki, and in the places of libvirt; virsh reaches the other by TLS';
  },
};

/** Who this host is to others, and whom it lets in. */
async function configure(machine: Machine, other: Machine): Promise<void> {
  await machine.sh(
    `sed -i -e 's/^#advertise = .*/advertise = ${machine.host}:10809/' -e 's/^#allow = .*/allow = ${other.host}/' ` +
      '/etc/xnbd/xnbd.conf && systemctl restart xnbdd xnbd-gateway',
  );
}

/** @throws Error when xnbdctl pki check finds anything wrong */
async function checked(bed: Bed): Promise<void> {
  await onBoth(bed, async (machine) => tell(`${machine.name}: ${await machine.sh('xnbdctl pki check')}`));
}

async function send(from: Machine, file: string, to: Machine): Promise<void> {
  const content = await from.sh(`base64 -w 0 ${file} && rm ${file}`);
  await to.sh(`echo ${content} | base64 -d >${file}`);
}

/** The block of commands of a document that begins so. */
async function commandsOf(path: string, beginning: string): Promise<string> {
  const text = await readFile(join(TOP, path), 'utf8');
  const block = text.split(/^(?=\S)/m).flatMap((paragraph) => /^ {4}[\s\S]*/m.exec(paragraph)?.[0] ?? []);
  const found = block
    .map((lines) => lines.replaceAll(/^ {4}/gm, '').trim())
    .find((lines) => lines.startsWith(beginning));
  if (found === undefined) throw new Error(`${path} has no commands that begin with ${beginning}`);
  return found;
}
