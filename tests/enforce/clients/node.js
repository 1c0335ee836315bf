// Node, by getaddrinfo (`lookup`) or by its own resolver, c-ares (`resolve`).
const dns = require("dns").promises;
const http = require("http");

const [way, port, ...names] = process.argv.slice(2);

async function told(name) {
    if (way === "lookup") {
        const found = await dns.lookup(name, { all: true }).catch(() => []);
        return found.map(({ address }) => address);
    }
    const kinds = [dns.resolve4(name), dns.resolve6(name)];
    return (await Promise.all(kinds.map((kind) => kind.catch(() => [])))).flat();
}

function fetched(address) {
    return new Promise((done) => {
        const host = address.includes(":") ? `[${address}]` : address;
        http.get(`http://${host}:${port}/`, { timeout: 60000 }, (response) => {
            let body = "";
            response.on("data", (chunk) => (body += chunk)).on("end", () => done(body));
        }).on("error", () => done(""));
    });
}

(async () => {
    for (const name of names) {
        const addresses = await told(name);
        const reached = addresses.length ? await fetched(addresses[addresses.length - 1]) : "";
        console.log(name, ...addresses, "|", reached);
    }
})();
