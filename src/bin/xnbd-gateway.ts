/**
 * `xnbd-gateway [--config FILE]`: the one port of a host that faces the network. With `--hand-certificates`
 * it copies what only root may read into the directory that systemd made for it, and ends: its unit begins
 * with that.
 */
import { parseArgs } from 'node:util';
import packageJson from '../../package.json' with { type: 'json' };
import { formatAddress } from '../config/address.ts';
import { loadConfig } from '../config/config.ts';
import { awaitCertificates } from '../gateway/await-certificates.ts';
import { startGateway } from '../gateway/gateway.ts';
import { listenPlain } from '../gateway/transport.ts';
import { log } from '../log/log.ts';
import { startResidentLog } from '../log/resident.ts';
import { handCertificates } from '../pki/hand-certificates.ts';
import { nameProcess } from '../system/process-name.ts';
import { exitNow } from '../system/syscalls.ts';

/** systemd gives 90 seconds; links of relocations that break come back by themselves. */
const GRACE_MS = 5000;

function usage(reason: string): never {
  process.stderr.write(
    `xnbd-gateway: ${reason}\nusage: xnbd-gateway [--config FILE] [--hand-certificates]\n`,
  );
  process.exit(2);
}

function readArguments(): { config?: string; 'hand-certificates'?: boolean } {
  try {
    const { values } = parseArgs({
      options: {
        config: { type: 'string' },
        'hand-certificates': { type: 'boolean' },
        version: { type: 'boolean' },
      },
    });
    if (values.version === true) {
      process.stdout.write(`${packageJson.version}\n`);
      process.exit(0);
    }
    return values;
  } catch (error) {
    return usage((error as Error).message);
  }
}

nameProcess('xnbd-gateway');
const { config: configPath, 'hand-certificates': handsOver = false } = readArguments();
try {
  if (handsOver) {
    await handCertificates((await loadConfig(configPath)).tls);
    process.exit(0);
  }
  const { level } = (await loadConfig(configPath)).log;
  const endLog = startResidentLog({ identifier: 'xnbd-gateway', level });
  const { config, tls } = await awaitCertificates(() => loadConfig(configPath));
  const gateway = await startGateway({
    run: config.paths.run,
    records: config.paths.exports,
    tls,
    listen: (visit) => listenPlain(config.gateway.listen, visit),
  });
  const end = (): void => {
    void gateway.close(GRACE_MS).then(() => {
      log.info('ended');
      endLog();
      exitNow(0);
    });
  };
  process.once('SIGTERM', end);
  process.once('SIGINT', end);
  log.info(
    `listening on ${formatAddress(gateway.address)}, exports of ${config.paths.run}, ${tls === null ? 'in the clear' : 'TLS'}`,
    { id: 'gateway-listens' },
  );
} catch (error) {
  process.stderr.write(`xnbd-gateway: ${(error as Error).message}\n`);
  process.exit(1);
}
