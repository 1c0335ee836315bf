# A package from a tarball, with a program and a script that runs when it is installed.
# needs: /usr/bin/npm /usr/bin/node
mkdir greeter project
cat > greeter/package.json <<'JSON'
{"name": "greeter", "version": "1.0.0", "bin": {"greet": "greet.js"},
 "scripts": {"postinstall": "node -e \"require('fs').writeFileSync('installed', 'yes')\""}}
JSON
printf '#!/usr/bin/env node\nconsole.log("hello")\n' > greeter/greet.js
export npm_config_update_notifier=false
(cd greeter && npm pack --silent)
cd project
npm init -y > /dev/null
npm install --offline --no-audit --no-fund ../greeter/greeter-1.0.0.tgz
test -f node_modules/greeter/installed
npx --offline greet | grep -qx hello
npm uninstall --offline greeter
