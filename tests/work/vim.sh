# vim changes a file and writes it, with its swap file beside it.
# needs: /usr/bin/vim.tiny
printf 'one\ntwo\n' > text
vim.tiny -e -s -c '%s/one/1/' -c 'set backup' -c wq text
grep -qx 1 text
grep -qx one text~
