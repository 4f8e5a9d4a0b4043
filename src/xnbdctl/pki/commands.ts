/** `xnbdctl pki`: its commands. */
import type { Command } from 'commander';
import type { Config } from '../../config/config.ts';
import { importFile, init, makeForHost } from './own-ca.ts';

/** Where xNBD looks for certificates after libvirt's own places (src/pki/certificate-files.ts). */
const PLACE = '/etc/xnbd/pki';

export function addPkiCommands(xnbdctl: Command, config: () => Promise<Config>): void {
  const pki = xnbdctl.command('pki').description('certificates');
  pki
    .command('check')
    .description("what is wrong with this host's certificates")
    .action(async () => {
      await check(await config());
    });
  pki
    .command('init')
    .description("make a CA, if this host has none, and this host's certificate; on one host")
    .option('--dir <dir>', 'where certificates lie', PLACE)
    .action(async ({ dir }: { dir: string }) => {
      await init(dir, await config());
    });
  pki
    .command('host <host>')
    .description('make a certificate for another host, in a file to take there; where the CA is')
    .option('--dir <dir>', 'where certificates lie', PLACE)
    .option('--out <file>', 'the file (default: HOST.pem)')
    .action(async (host: string, { dir, out = `${host}.pem` }: { dir: string; out?: string }) => {
      await makeForHost(dir, host, out);
    });
  pki
    .command('import <file>')
    .description('put the certificate where it belongs that pki host has made for this host')
    .option('--dir <dir>', 'where certificates lie', PLACE)
    .action(async (file: string, { dir }: { dir: string }) => {
      await importFile(dir, file, await config());
    });
}

async function check({ gateway, tls }: Config): Promise<void> {
  // TLS costs every other command time that it has no use for; so with what follows.
  const { checkPki } = await import('../../pki/check.ts');
  const { faults, notes } = await checkPki({ gateway, tls });
  for (const line of [...notes, ...faults.map((fault) => `WRONG: ${fault}`)])
    process.stdout.write(`${line}\n`);
  if (faults.length > 0) throw new Error(`${faults.length} to put right; what else is wrong may show then`);
  process.stdout.write('all is well\n');
}
