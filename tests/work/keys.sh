# A key for deployment, made in the workspace under a name that no rule takes for a secret.
# needs: /usr/bin/ssh-keygen
ssh-keygen -q -t ed25519 -N '' -f deploy
ssh-keygen -l -f deploy.pub
test -s deploy
