/** The figures that the fault suite finds, for docs/reliability.md: the page is made of them, and of nothing typed. */
import { appendFileSync } from 'node:fs';

/** Whether all is tried that can be (`npm run test:faults -- --long`), and not only what `npm test` has time for. */
export const LONG = process.env.FAULTS_LONG === '1';

/** A row of the page's table of this title. The same columns in each row of a table. */
export interface Figure {
  table: string;
  row: Record<string, string | number>;
}

/** Notes a figure; several test files may do so at a time. */
export function note(figure: Figure): void {
  const file = process.env.FAULTS_FIGURES;
  if (file) appendFileSync(file, `${JSON.stringify(figure)}\n`);
}
