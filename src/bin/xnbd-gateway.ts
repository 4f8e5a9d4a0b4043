/** `xnbd-gateway [--config FILE]`: the one port of a host that faces the network. */
import { parseArgs } from 'node:util';
import { defaultConfigPath, formatAddress, loadConfig } from '../config/config.ts';
import { startGateway } from '../gateway/gateway.ts';
import { listenPlain } from '../gateway/transport.ts';
import { log } from '../log/log.ts';
import { startResidentLog } from '../log/resident.ts';

/** systemd gives 90 seconds; links of relocations that break come back by themselves. */
const GRACE_MS = 5000;

function usage(reason: string): never {
  process.stderr.write(`xnbd-gateway: ${reason}\nusage: xnbd-gateway [--config FILE]\n`);
  process.exit(2);
}

function readArguments(): string | undefined {
  try {
    return parseArgs({ options: { config: { type: 'string' } } }).values.config;
  } catch (error) {
    return usage((error as Error).message);
  }
}

const configPath = readArguments();
try {
  const config = await loadConfig(configPath);
  if (config.gateway.tls === 'required') {
    throw new Error(
      `TLS is not built in yet: write tls = off under [gateway] in ${configPath ?? defaultConfigPath}, if the network is trusted`,
    );
  }
  const endLog = startResidentLog({ identifier: 'xnbd-gateway', level: config.log.level });
  const gateway = await startGateway({
    run: config.paths.run,
    listen: (visit) => listenPlain(config.gateway.listen, visit),
  });
  log.info(`listening on ${formatAddress(gateway.address)}, exports of ${config.paths.run}`);
  const end = (): void => {
    void gateway.close(GRACE_MS).then(() => {
      log.info('ended');
      endLog();
      process.exit(0);
    });
  };
  process.once('SIGTERM', end);
  process.once('SIGINT', end);
} catch (error) {
  process.stderr.write(`xnbd-gateway: ${(error as Error).message}\n`);
  process.exit(1);
}
