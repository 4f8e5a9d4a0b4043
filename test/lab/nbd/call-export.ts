import { connectControl } from '../../../src/control/client.ts';
import type { ControlMethod } from '../../../src/control/methods.ts';

/** Calls one method of an export. @throws Error of one line: NobodyAnswers, or the export's own */
export async function callExport(ctl: string, method: ControlMethod): Promise<unknown> {
  const client = await connectControl(ctl);
  try {
    return await client.call(method);
  } finally {
    client.close();
  }
}
