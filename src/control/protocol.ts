/**
 * What an export says and takes on its control socket (`NAME.ctl`): JSON, one object a line.
 *
 *     -> {"id":1,"method":"status"}
 *     <- {"id":1,"result":{...ExportStatus}}
 *     <- {"id":1,"error":"one line that names the thing and the way out"}
 *     -> {"id":2,"method":"watch"}          then, unasked: {"event":"status","status":{...ExportStatus}}
 *
 * After `watch` the export sends its status on each change of state, and at most twice a second while its
 * counters move. The methods are in methods.ts, the status in status.ts.
 */
import type { ControlMethod, MethodParameters } from './methods.ts';
import type { ExportStatus } from './status.ts';

export type ControlRequest = MethodParameters & { readonly id: number; readonly method: ControlMethod };

export type ControlResponse = { id: number; result: unknown } | { id: number; error: string };

export interface StatusEvent {
  event: 'status';
  status: ExportStatus;
}
