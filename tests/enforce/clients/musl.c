/* The getaddrinfo of whatever C library this is built with. */

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static const char request[] = "GET / HTTP/1.0\r\n\r\n";

/* Prints what the server there answers. */
static void fetch(const struct addrinfo *found)
{
	char answer[512];
	size_t length = 0;
	ssize_t count = 0;
	struct timeval patience = { .tv_sec = 60 };
	int connection = socket(found->ai_family, found->ai_socktype, found->ai_protocol);

	if (connection < 0)
		return;
	setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(connection, found->ai_addr, found->ai_addrlen) == 0 &&
	    write(connection, request, strlen(request)) == (ssize_t)strlen(request)) {
		while (length < sizeof(answer) - 1 &&
		       (count = read(connection, answer + length, sizeof(answer) - 1 - length)) > 0)
			length += count;
		answer[length] = 0;
		if (strrchr(answer, '\n'))
			printf(" %s", strrchr(answer, '\n') + 1);
	}
	close(connection);
}

int main(int count, char **words)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	char text[INET6_ADDRSTRLEN];

	for (int at = 2; at < count; at++) {
		struct addrinfo *all = NULL;

		printf("%s", words[at]);
		if (getaddrinfo(words[at], words[1], &hints, &all) != 0)
			all = NULL;
		for (struct addrinfo *one = all; one; one = one->ai_next) {
			const void *address = one->ai_family == AF_INET
				? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
				: (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;

			printf(" %s", inet_ntop(one->ai_family, address, text, sizeof(text)));
		}
		printf(" |");
		for (struct addrinfo *one = all; one; one = one->ai_next)
			fetch(one);
		printf("\n");
		fflush(stdout);
	}
	return 0;
}
