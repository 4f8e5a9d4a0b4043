/** Certificates for both machines, by the commands that docs/tls.md gives, and the configuration that names them. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { onBoth, TOP, tell } from '../bed.ts';
import type { Step } from '../step.ts';

export const certificates: Step = {
  name: 'certificates',
  limitS: 300,
  async run(bed) {
    const [a, b] = bed.machines;
    // The CA's key stays on a, in its own directory.
    const commands = await commandsOf('docs/tls.md', 'openssl');
    await a.sh(
      `mkdir -p /root/ca && cd /root/ca && { ${commands}\n} 2>/dev/null && mkdir -p a && mv a.* server-*.pem a/`,
    );
    const again = commands.replaceAll('a.example', 'b.example').replaceAll(/\ba\.(csr|ext)/g, 'b.$1');
    const withoutCa = again.slice(again.indexOf('openssl', again.indexOf('ca-cert.pem')));
    await a.sh(`cd /root/ca && { ${withoutCa}\n} 2>/dev/null && mkdir -p b && mv b.* server-*.pem b/`);
    const archive = await a.sh(
      'cd /root/ca && cp ca-cert.pem b/ && cp ca-cert.pem a/ && tar c -C b . | base64 -w 0',
    );
    await a.sh('mkdir -p /etc/xnbd/pki && cp /root/ca/a/*.pem /etc/xnbd/pki/');
    await b.sh(
      `mkdir -p /etc/xnbd/pki && echo ${archive} | base64 -d | tar x --no-same-owner -C /etc/xnbd/pki`,
    );
    const forLibvirt = await commandsOf('docs/tls.md', 'cd /etc/xnbd/pki');
    const said = await onBoth(bed, async (machine) => {
      const other = machine === a ? b : a;
      await machine.sh(
        `sed -i -e 's/^#advertise = .*/advertise = ${machine.host}:10809/' -e 's/^#allow = .*/allow = ${other.host}/' ` +
          '/etc/xnbd/xnbd.conf && systemctl restart xnbdd xnbd-gateway && xnbdctl pki check',
      );
      await machine.sh(`set -e; ${forLibvirt}`);
      const check = await machine.sh('xnbdctl pki check');
      tell(`${machine.name}: ${check}`);
      return check.includes('all is well');
    });
    if (said.includes(false)) throw new Error('xnbdctl pki check is not content');
    await a.sh(`virsh -c qemu+tls://${b.host}/system -q list`);
    return 'made and put by docs/tls.md; xnbdctl pki check: all is well; virsh reaches the other by TLS';
  },
};

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
