// Custom resources, as a JSON list on stdin, against their operators' models: by TypeScript for fields that do not
// exist, and by the models' own validators for values. Prints a JSON list of problems.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const PACKAGES = {
  "gateway.networking.k8s.io": "gateway-api",
  "container.cnrm.cloud.google.com": "gke",
  "karpenter.k8s.aws": "karpenter",
  "karpenter.sh": "karpenter",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};
const COMPILER = ["--noEmit", "--strict", "--skipLibCheck", "--pretty", "false", "--module", "nodenext"];

const here = dirname(fileURLToPath(import.meta.url));
const documents = JSON.parse(readFileSync(0, "utf8"));
const problems = [];
const typed = [];

for (const [index, document] of documents.entries()) {
  const [group, version] = document.apiVersion.split("/");
  const name = `${document.kind} ${document.metadata?.name}`;
  const place = `@kubernetes-models/${PACKAGES[group]}/${group}/${version}/${document.kind}`;
  try {
    const model = await import(place);
    new model[document.kind](document).validate();
    typed.push({
      name,
      text: `import type { I${document.kind} as T${index} } from "${place}"; `
        + `export const d${index}: T${index} = ${JSON.stringify(document)};`,
    });
  } catch (error) {
    problems.push(`${name}: ${error.message}`);
  }
}

const scratch = mkdtempSync(join(here, "typed-"));
const source = join(scratch, "documents.ts");
writeFileSync(source, typed.map(({ text }) => text).join("\n"));
try {
  execFileSync(process.execPath, [join(here, "node_modules/typescript/bin/tsc"), ...COMPILER, source], { cwd: here });
} catch (error) {
  for (const line of error.stdout.toString().split("\n")) {
    const found = line.match(/\((\d+),\d+\): error (.*)/);
    if (found) problems.push(`${typed[found[1] - 1].name}: ${found[2]}`);
  }
  if (!problems.length) problems.push(error.stdout.toString() || error.message);
} finally {
  rmSync(scratch, { recursive: true });
}
console.log(JSON.stringify(problems));
