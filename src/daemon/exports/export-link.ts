/**
 * The daemon's line to one export: its control socket, watched for as long as the export lives. The export
 * knows its state; the daemon only hears of it here.
 */
import { connectControl } from '../../control/client.ts';
import type { ControlMethod, MethodParameters } from '../../control/methods.ts';
import type { ExportStatus } from '../../control/status.ts';

/** Shorter than the time that a hook has. */
const callLimitMs = 20_000;

export interface ExportLink {
  /**
   * @throws Error with the export's own words when it refuses; when it is gone; when it does not answer in
   * time.
   */
  call(method: ControlMethod, parameters?: MethodParameters, limitMs?: number): Promise<unknown>;
  /** What is so now: what was reported last may be half a second old. @throws Error as `call` does. */
  status(): Promise<ExportStatus>;
  close(): void;
}

export interface ExportLinkEvents {
  status: (status: ExportStatus) => void;
  /** The link is gone and was not closed from here. */
  gone: () => void;
}

/**
 * Opens a control socket and watches; the first status has been reported when this resolves.
 * @throws Error when no process answers.
 */
export async function openExportLink(path: string, events: ExportLinkEvents): Promise<ExportLink> {
  const client = await connectControl(path, events.status);
  let closing = false;
  const close = (): void => {
    closing = true;
    client.close();
  };
  try {
    await client.watch(callLimitMs);
  } catch (error) {
    close();
    throw error;
  }
  void client.closed.then(() => {
    if (!closing) events.gone();
  });
  return {
    call: (method, parameters, limitMs = callLimitMs) => client.call(method, limitMs, parameters),
    status: () => client.status(callLimitMs),
    close,
  };
}
