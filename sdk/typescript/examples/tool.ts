/**
 * A tool that accepts Dayfly's tokens: a web server of customers. Its workload needs the role `resource-server`.
 *
 * usage: ISSUER=… AUDIENCE=… PORT=… DAYFLY_EVIDENCE_FILE=… node tool.js
 */
import express from "express";
import { claimsOf, expressGuard, Verifier } from "@dayfly/client/resource";

const { ISSUER = "http://127.0.0.1:8440", AUDIENCE = "https://crm.example.org", PORT = "8080" } = process.env;
const verifier = new Verifier({
  issuer: ISSUER,
  audience: AUDIENCE,
  onError: (error) => { console.error(error.message); },
});
await verifier.ready();

const app = express();
const mayRead = expressGuard<express.Request>(verifier, {
  action: "read",
  resource: (request) => `customers/${String(request.params["id"])}`,
});
app.get("/customers/:id", mayRead, (request, response) => {
  const { agent, task } = claimsOf(request);
  response.json({ customer: request.params["id"], readBy: agent, for: task });
});
const server = app.listen(Number(PORT), "127.0.0.1", () => { console.log("ready"); });
process.once("SIGTERM", () => {
  verifier.close();
  server.close();
});
