/*
 * OpenSMTPD 6.8, as Debian 12 has it, marks its key by RSA_set_ex_data on what EVP_PKEY_get1_RSA returns, and finds
 * the mark again when it signs. With OpenSSL 3 that is a copy, and every handshake fails for want of a private key.
 * Given back to its key, the copy is what OpenSSL uses. Loaded by ld.so.preload; needs no header and no library.
 */
extern void *dlsym(void *, const char *);
extern int EVP_PKEY_set1_RSA(void *, void *);

void *EVP_PKEY_get1_RSA(void *key)
{
    static void *(*next)(void *);
    void *rsa;

    if (!next)
        next = (void *(*)(void *))dlsym((void *)-1L /* RTLD_NEXT */, "EVP_PKEY_get1_RSA");
    rsa = next(key);
    if (rsa)
        EVP_PKEY_set1_RSA(key, rsa);
    return rsa;
}
