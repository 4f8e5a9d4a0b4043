/**
 * What an export that is a service tells systemd: that it serves (READY=1), what the disk does, for
 * `systemctl status` (STATUS=), and that it is alive (WATCHDOG=1): a process that says nothing for the time
 * that its unit gives is replaced.
 */
import { stateLine } from '../control/state-line.ts';
import type { ExportStatus } from '../control/status.ts';
import { tellServiceManager, watchdogMs } from '../system/systemd/service-manager.ts';

/** A copy moves all the time; systemd needs not know each block. */
const lookMs = 2000;

/**
 * Says that the export serves, and keeps systemd told until `end`. Costs nothing where there is no systemd.
 */
export function keepServiceManagerTold(status: () => ExportStatus): { end(): void } {
  if (process.env.NOTIFY_SOCKET === undefined) return { end: () => undefined };
  const watchdog = watchdogMs();
  let told = stateLine(status());
  tellServiceManager(`READY=1\nSTATUS=${told}`);
  const tell = (): void => {
    const line = stateLine(status());
    const words = [
      ...(watchdog === null ? [] : ['WATCHDOG=1']),
      ...(line === told ? [] : [`STATUS=${line}`]),
    ];
    told = line;
    if (words.length > 0) tellServiceManager(words.join('\n'));
  };
  const timer = setInterval(tell, Math.min(lookMs, (watchdog ?? Infinity) / 3)).unref();
  return {
    end() {
      clearInterval(timer);
      tellServiceManager('STOPPING=1\nSTATUS=finishing requests');
    },
  };
}
