"""Images: from a folder, archive or file list to grey pixels in the model's form.

- `archive`: archives of images, read without unpacking them
- `contrast`: ink that shows in the alpha channel or in a colour only
- `decode`: one image file to grey pixels
- `file_list`: lists of paths from a file or standard input
- `folder`: listing folders in byte order, and reading what was listed
- `formats`: which image files are read, and how they are recognized
- `normalize`: pixels to model input; the steps of finding the ink are in `digits.images.ink`
- `pages`: where the pages of a TIFF or PDF are, and one page of a PDF as an image
- `patterns`: include and exclude patterns
- `screening`: detection of blank pages, several digits and photos of objects
- `source`: one interface to folders and archives
- `types`: array types that several packages use
"""
