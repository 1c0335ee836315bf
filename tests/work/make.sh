# A program in C, built by four jobs at once with a library of its own, and its tests run.
mkdir build
for part in one two three four five six; do
    printf 'int %s(void) { return 1; }\n' "$part" > "$part.c"
done
cat > main.c <<'C'
int one(void), two(void), three(void), four(void), five(void), six(void);
int main(void) { return one() + two() + three() + four() + five() + six() != 6; }
C
cat > Makefile <<'MAKE'
PARTS = one two three four five six
check: build/program
	LD_LIBRARY_PATH=build build/program
build/program: main.c build/libparts.so
	$(CC) -g -o $@ main.c -Lbuild -lparts
build/libparts.so: $(PARTS:%=build/%.o)
	$(CC) -shared -o $@ $^
build/%.o: %.c
	$(CC) -g -O2 -fPIC -c -o $@ $<
clean:
	rm -rf build
MAKE
make -j4 check
make -j4 check | grep -q LD_LIBRARY_PATH
